//! Compiles the protos with a pure-Rust compiler, so that no `protoc` is needed on the machine.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let root = "protos";
    let files = [
        "flame/v1/admin.proto",
        "flame/v1/control.proto",
        "flame/v1/frontend.proto",
        "flame/v1/shim.proto",
        "flame/node/v1/node.proto",
    ];
    println!("cargo:rerun-if-changed={root}");
    let descriptors = protox::compile(files, [root])?;
    tonic_prost_build::configure()
        // Payloads are handed on without being copied.
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
