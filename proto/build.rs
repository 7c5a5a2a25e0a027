//! Compiles the .proto files with a compiler written in Rust, so that no `protoc` is needed.

use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["dfs/v1/types.proto", "dfs/v1/meta.proto", "dfs/v1/chunk.proto"];
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".dfs.v1.PutRequest.part")
        .bytes(".dfs.v1.NewChunk.data")
        .bytes(".dfs.v1.ReadResponse.slice")
        .bytes(".dfs.v1.ReadResult.data")
        .compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=dfs");
    Ok(())
}
