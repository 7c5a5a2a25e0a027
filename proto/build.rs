//! Compiles the .proto files with a compiler written in Rust, so that no `protoc` is needed.

use std::fmt::Write;
use std::path::PathBuf;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["dfs/v1/types.proto", "dfs/v1/meta.proto", "dfs/v1/chunk.proto"];
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    std::fs::write(out.join("shapes.rs"), shapes(&descriptors)?)?;
    tonic_prost_build::configure()
        .codec_path("crate::codec::BoundedCodec")
        .bytes(".dfs.v1.PutRequest.part")
        .bytes(".dfs.v1.NewChunk.data")
        .bytes(".dfs.v1.ReadResponse.slice")
        .bytes(".dfs.v1.ReadResult.data")
        .compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=dfs");
    Ok(())
}

/// What `codec` wants to know of each message. All messages are of one package and none lies in another.
fn shapes(descriptors: &FileDescriptorSet) -> Result<String, std::fmt::Error> {
    let mut code = String::new();
    for message in descriptors.file.iter().filter(|f| f.package() == "dfs.v1").flat_map(|f| &f.message_type) {
        let (name, fields) = (message.name(), fields(message));
        writeln!(code, "impl Shaped for crate::v1::{name} {{ const SHAPE: &'static Shape = &Shape(&[{fields}]); }}")?;
    }
    Ok(code)
}

fn fields(message: &DescriptorProto) -> String {
    let shape = |field: &FieldDescriptorProto| match field.r#type() {
        Type::Message => {
            let inner = field.type_name().rsplit('.').next().unwrap_or_default();
            Some(format!("({}, Some(<crate::v1::{inner} as Shaped>::SHAPE)),", field.number()))
        }
        Type::String | Type::Bytes if field.label() == Label::Repeated => Some(format!("({}, None),", field.number())),
        _ => None,
    };
    message.field.iter().filter_map(shape).collect()
}
