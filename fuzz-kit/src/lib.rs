//! What all fuzz targets share: how much memory one may take, and a short run of it as an ordinary test.
//!
//! A [`Target`] lives in the crate whose parser it feeds, behind that crate's feature `fuzz`. The same target runs
//! for hours under cargo-fuzz (the directory `fuzz/`) and for a moment in `cargo test` ([`short_run`]). Whoever links
//! this crate has its allocator, which counts: it is for tests alone.

mod input;
mod meter;
mod mutate;
mod short;

pub use input::Input;
pub use meter::peak_of;
pub use short::short_run;

/// A parser of bytes that a peer or a disk brought, and what it may cost.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Also the name of its directory below `fuzz/corpus`.
    pub name: &'static str,
    /// Takes any bytes; panics if what it finds out about them must not be.
    pub target: fn(&[u8]),
    /// Inputs made by the real encoders.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Bytes that it may hold at a moment, whatever the input: buffers, a state to work on.
    pub base: usize,
    /// And so many for each byte of the input.
    pub per_byte: usize,
}

impl Target {
    /// Puts the seeds into the directory that `$DFS_FUZZ_SEEDS` names; does nothing without.
    ///
    /// # Panics
    /// When the system says no.
    pub fn write_seeds(&self) {
        let Some(dir) = std::env::var_os("DFS_FUZZ_SEEDS").map(std::path::PathBuf::from) else { return };
        for (i, seed) in (self.seeds)().iter().enumerate() {
            std::fs::write(dir.join(format!("seed-{i:02}")), seed).expect("the directory of the seeds takes them");
        }
    }

    /// Feeds it.
    ///
    /// # Panics
    /// When the target does, or when it held more memory than it may.
    pub fn run(&self, data: &[u8]) {
        let peak = peak_of(|| (self.target)(data));
        let most = self.base + self.per_byte * data.len();
        assert!(peak <= most, "{} bytes of input took {peak} bytes of memory, more than {most}", data.len());
    }
}
