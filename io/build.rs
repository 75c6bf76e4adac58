//! Generates the client of the execution service, whose messages are those of `downbeat-core`, and the journal's records.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../core/proto");
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["execution_v2.proto", "journal_v1.proto"], ["../core/proto", "proto"])?;
    let mut builder = tonic_prost_build::configure().build_server(false).build_transport(false).bytes(".");
    for package in ["astria", "astria_vendored", "connect"] {
        builder = builder.extern_path(format!(".{package}"), format!("::downbeat_core::wire::proto::{package}"));
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}
