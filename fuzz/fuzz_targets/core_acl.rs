#![no_main]

dfs_fuzz::program!(dfs_core::fuzz::ACL);
