#![no_main]

dfs_fuzz::program!(dfs_client::fuzz::CACHE);
