#![no_main]

dfs_fuzz::program!(chunkd::fuzz::REQUESTS);
