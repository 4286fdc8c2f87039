//! Generates the gRPC code from the `.proto` files, without a `protoc` binary.
use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    error::Error,
    fmt::Write as _,
    fs,
    path::PathBuf,
};

use prost::Message;
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

/// What clients speak.
const PUBLIC: [&str; 5] = [
    "millrace/v1/types.proto",
    "millrace/v1/messaging.proto",
    "millrace/v1/log.proto",
    "millrace/v1/admin.proto",
    "millrace/v1/groups.proto",
];

/// The package of these.
const PUBLIC_PACKAGE: &str = ".millrace.v1.";

/// What brokers speak among themselves.
const INTERNAL: [&str; 5] = [
    "millrace/internal/v1/cluster.proto",
    "millrace/internal/v1/forward.proto",
    "millrace/internal/v1/groups.proto",
    "millrace/internal/v1/quorum.proto",
    "millrace/internal/v1/replication.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=millrace");
    let descriptors = protox::compile(PUBLIC, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Server reflection answers from this; `compile_fds` does not write it itself. It tells
    // nothing of what brokers speak among themselves.
    fs::write(out.join("millrace.bin"), descriptors.encode_to_vec())?;
    fs::write(out.join("shapes.rs"), shapes(&descriptors)?)?;
    for descriptors in [descriptors, protox::compile(INTERNAL, ["."])?] {
        tonic_prost_build::configure()
            // Payloads as slices of the receive buffer, not copies.
            .bytes(".")
            .codec_path("crate::codec::MillraceCodec")
            .compile_fds(descriptors)?;
    }
    Ok(())
}

/// The code of `decoded::Shape`s: of the requests of all calls, and of what they hold.
fn shapes(descriptors: &FileDescriptorSet) -> Result<String, Box<dyn Error>> {
    let messages: BTreeMap<String, &DescriptorProto> = descriptors
        .file
        .iter()
        .flat_map(|file| {
            let package = file.package();
            file.message_type
                .iter()
                .map(move |message| (format!(".{package}.{}", message.name()), message))
        })
        .collect();
    let mut code = String::new();
    let mut calls = String::new();
    let mut unary = Vec::new();
    let mut wanted = Vec::new();
    for file in &descriptors.file {
        for service in &file.service {
            for method in &service.method {
                let request = method.input_type();
                let (package, service, name) = (file.package(), service.name(), method.name());
                let shape = rust_path(request)?;
                writeln!(
                    calls,
                    "        \"/{package}.{service}/{name}\" => <{shape} as Shaped>::SHAPE,"
                )?;
                wanted.push(request.to_owned());
                if !method.client_streaming() && !method.server_streaming() {
                    unary.push(format!("\"/{package}.{service}/{name}\""));
                }
            }
        }
    }
    let mut done = BTreeSet::new();
    while let Some(name) = wanted.pop() {
        if !done.insert(name.clone()) {
            continue;
        }
        let message = messages
            .get(&name)
            .ok_or_else(|| format!("{name}: a message inside another one, for which there is no shape yet"))?;
        let mut fields = String::new();
        for field in &message.field {
            if let Some(content) = content(field, &mut wanted).map_err(|problem| format!("{name}: {problem}"))? {
                write!(fields, "Field {{ number: {}, content: {content} }}, ", field.number())?;
            }
        }
        let path = rust_path(&name)?;
        writeln!(
            code,
            "impl Shaped for {path} {{\n    const SHAPE: &Shape = &Shape {{ size: size_of::<Self>(), fields: &[{fields}] }};\n}}"
        )?;
    }
    writeln!(
        code,
        "/// The shape of the requests of a call, by its path; `None` if it is not one of the contract's.\n\
         #[must_use]\n\
         pub fn shape_of_request(path: &str) -> Option<&'static Shape> {{\n    Some(match path {{\n{calls}        _ => return None,\n    }})\n}}\n\
         /// Whether a call of the contract has one request and one answer, by its path.\n\
         #[must_use]\n\
         pub fn is_unary(path: &str) -> bool {{\n    matches!(path, {})\n}}",
        unary.join(" | ")
    )?;
    Ok(code)
}

/// What a field takes in memory beside its message, as `decoded::Content`; nothing for most.
fn content(field: &FieldDescriptorProto, wanted: &mut Vec<String>) -> Result<Option<String>, Box<dyn Error>> {
    let listed = field.label() == Label::Repeated;
    Ok(match (field.r#type(), listed) {
        (Type::Message, _) if field.type_name().starts_with(PUBLIC_PACKAGE) => {
            wanted.push(field.type_name().to_owned());
            let path = rust_path(field.type_name())?;
            let kind = if listed { "Messages" } else { "Message" };
            Some(format!("Content::{kind}(<{path} as Shaped>::SHAPE)"))
        }
        // Times and durations: two numbers.
        (Type::Message, false) if field.type_name().starts_with(".google.protobuf.") => None,
        (Type::String, false) => Some("Content::Text".to_owned()),
        (Type::String, true) => Some("Content::Texts".to_owned()),
        (Type::Bool, true) => Some("Content::Varints(size_of::<bool>())".to_owned()),
        (Type::Int32 | Type::Uint32 | Type::Sint32 | Type::Enum, true) => {
            Some("Content::Varints(size_of::<i32>())".to_owned())
        }
        (Type::Int64 | Type::Uint64 | Type::Sint64, true) => Some("Content::Varints(size_of::<i64>())".to_owned()),
        (Type::Message | Type::Group, _) | (_, true) => {
            return Err(format!("field {} is of a kind that shapes do not know yet", field.name()).into());
        }
        // Numbers stand in the message itself, bytes in the buffer that it came in.
        (_, false) => None,
    })
}

/// The generated type of a message.
fn rust_path(name: &str) -> Result<String, Box<dyn Error>> {
    let name = name.strip_prefix(PUBLIC_PACKAGE).filter(|name| !name.contains('.'));
    let name = name.ok_or("only messages of the public package at the top level can be requests' parts")?;
    Ok(format!("crate::v1::{name}"))
}
