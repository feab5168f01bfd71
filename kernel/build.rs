//! Lets the child's libraries find the program's own `write`: see `src/child/streams.rs`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for name in ["write", "writev"] {
        println!("cargo:rustc-link-arg-bins=-Wl,--export-dynamic-symbol={name}");
    }
}
