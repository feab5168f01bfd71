//! Holds no code: see `.config/hakari.toml`.
