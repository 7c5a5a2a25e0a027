#![no_main]

dfs_fuzz::program!(metad::fuzz::ROWS);
