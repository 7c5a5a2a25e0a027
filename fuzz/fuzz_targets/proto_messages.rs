#![no_main]

dfs_fuzz::program!(dfs_proto::fuzz::MESSAGES);
