//! What a fuzzer runs (`fuzz`), with the bytes that it begins with: for whoever has none.

use std::{fs, path::Path};

#[expect(unreachable_pub, reason = "there it is a crate")]
#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

#[test]
fn frames() {
    with_seeds("frames", fuzz::frames::run);
}

#[test]
fn headers_of_the_proxy_protocol() {
    with_seeds("proxy", fuzz::proxy::run);
}

#[test]
fn connections() {
    with_seeds("connection", fuzz::connection::run);
}

#[test]
fn deadlines() {
    with_seeds("deadline", fuzz::deadline::run);
}

#[test]
fn settings() {
    with_seeds("settings", fuzz::settings::run);
}

/// With each of them, and with as much of it as there is of a peer that goes away.
fn with_seeds(name: &str, run: fn(&[u8])) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    let mut tried = 0;
    for seed in fs::read_dir(seeds.join(name)).expect("the seeds") {
        let bytes = fs::read(seed.expect("a seed").path()).expect("its bytes");
        for end in 0..=bytes.len() {
            run(&bytes[..end]);
        }
        tried += 1;
    }
    assert!(tried >= 5, "{tried} seeds");
}
