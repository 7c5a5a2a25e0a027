//! Fuzz targets: what chunkd reads from its disk, and what anybody may send it.

mod requests;

pub use crate::store::fuzz::DIRECTORY;
pub use requests::REQUESTS;

#[cfg(test)]
mod tests {
    use dfs_fuzz_kit::short_run;

    #[test]
    fn directory() {
        short_run(&super::DIRECTORY);
    }

    #[test]
    fn requests() {
        short_run(&super::REQUESTS);
    }
}
