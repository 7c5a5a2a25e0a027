//! Compiles the .proto files with a compiler written in Rust, so that no `protoc` is needed.

use std::fmt::Write;
use std::path::PathBuf;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// The fields that carry the bytes of chunks. They are received without being copied.
const DATA: [&str; 4] = ["PutRequest.part", "NewChunk.data", "ReadResponse.slice", "ReadResult.data"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["dfs/v1/types.proto", "dfs/v1/meta.proto", "dfs/v1/chunk.proto"];
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    std::fs::write(out.join("shapes.rs"), shapes(&descriptors)?)?;
    let mut config = tonic_prost_build::configure().codec_path("crate::codec::BoundedCodec");
    for field in DATA {
        config = config.bytes(format!(".dfs.v1.{field}"));
    }
    config.compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=dfs");
    Ok(())
}

/// What `codec` wants to know of each message. All messages are of one package and none lies in another.
fn shapes(descriptors: &FileDescriptorSet) -> Result<String, std::fmt::Error> {
    let mut code = String::new();
    for message in descriptors.file.iter().filter(|f| f.package() == "dfs.v1").flat_map(|f| &f.message_type) {
        let (name, fields, data) = (message.name(), fields(message), holds_data(message));
        writeln!(code, "impl Shaped for crate::v1::{name} {{")?;
        writeln!(code, "const SHAPE: &'static Shape = &Shape(&[{fields}]); const HOLDS_DATA: bool = {data}; }}")?;
    }
    Ok(code)
}

/// Whether the message, or one within it, has a field of [`DATA`]: as an expression.
fn holds_data(message: &DescriptorProto) -> String {
    let own = |field: &FieldDescriptorProto| DATA.contains(&format!("{}.{}", message.name(), field.name()).as_str());
    let inner = message.field.iter().filter_map(inner).map(|m| format!(" || <crate::v1::{m} as Shaped>::HOLDS_DATA"));
    format!("{}{}", message.field.iter().any(own), inner.collect::<String>())
}

/// The message that a field is.
fn inner(field: &FieldDescriptorProto) -> Option<&str> {
    (field.r#type() == Type::Message).then(|| field.type_name().rsplit('.').next().unwrap_or_default())
}

fn fields(message: &DescriptorProto) -> String {
    let shape = |field: &FieldDescriptorProto| match (inner(field), field.r#type()) {
        (Some(inner), _) => Some(format!("({}, Some(<crate::v1::{inner} as Shaped>::SHAPE)),", field.number())),
        (None, Type::String | Type::Bytes) if field.label() == Label::Repeated => {
            Some(format!("({}, None),", field.number()))
        }
        _ => None,
    };
    message.field.iter().filter_map(shape).collect()
}
