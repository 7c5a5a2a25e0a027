//! What makes a libFuzzer program of a target.

pub use libfuzzer_sys;

/// The program of one target. Where `$DFS_FUZZ_SEEDS` names a directory, the target's seeds are put there first.
#[macro_export]
macro_rules! program {
    ($target:path) => {
        $crate::libfuzzer_sys::fuzz_target!(init: $target.write_seeds(), |data: &[u8]| $target.run(data));
    };
}
