//! Fuzz targets: what metad and the chunk daemons may answer to a client.

pub use crate::chunks::fuzz::ANSWERS;
pub use crate::meta::fuzz::SESSION;

#[cfg(test)]
mod tests {
    use dfs_fuzz_kit::short_run;

    #[test]
    fn session() {
        short_run(&super::SESSION);
    }

    #[test]
    fn answers() {
        short_run(&super::ANSWERS);
    }
}
