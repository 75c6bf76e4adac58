//! Compiles the project's `.proto` files to Rust messages, without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors =
        protox::compile(["execution_v2.proto", "price_feed_v1.proto", "connect_abci_v2.proto"], ["proto"])?;
    prost_build::Config::new()
        // Payloads are slices of the received buffer, not copies of it.
        .bytes(["."])
        // The order of map entries decides the order of prices, hence never a hash map.
        .btree_map(["."])
        .include_file("proto.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
