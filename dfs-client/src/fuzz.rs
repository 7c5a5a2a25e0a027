//! Fuzz targets: what metad and the chunk daemons may answer to a client, and what it may find in its cache.

pub use crate::cache::disk::fuzz::CACHE;
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
    fn cache() {
        short_run(&super::CACHE);
    }

    #[test]
    fn answers() {
        short_run(&super::ANSWERS);
    }
}
