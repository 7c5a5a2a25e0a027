//! Fuzz targets: what metad reads from its disk, and what anybody may send it.

mod commands;
mod rows;
mod state;

pub use crate::log::fuzz::LOG;
pub use commands::COMMANDS;
pub use rows::ROWS;

#[cfg(test)]
mod tests {
    use dfs_fuzz_kit::short_run;

    #[test]
    fn log() {
        short_run(&super::LOG);
    }

    #[test]
    fn rows() {
        short_run(&super::ROWS);
    }

    #[test]
    fn commands() {
        short_run(&super::COMMANDS);
    }
}
