//! What a client may say of a kernel's environment.

use std::collections::BTreeMap;

use crate::error::{GatewayError, Result};

/// Bytes of all environment variables of one start.
const MAX_ENV: usize = 64 << 10;

/// The variables that a client may set: `KERNEL_*`, as at Jupyter's gateways.
pub(super) fn allowed(env: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    let env: BTreeMap<_, _> = env
        .iter()
        .filter(|(name, _)| name.starts_with("KERNEL_"))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let bytes: usize = env.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_ENV
        || env
            .iter()
            .any(|(name, value)| name.contains(['=', '\0']) || value.contains('\0'))
    {
        return Err(GatewayError::bad_request(
            "kernel_env",
            "the environment is over 64 KiB or holds a zero byte",
        ));
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_kernel_variables_only() {
        let env = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect()
        };
        let passed = allowed(&env(&[("KERNEL_X", "1"), ("LD_PRELOAD", "x"), ("PATH", "x")])).unwrap();
        assert_eq!(passed, env(&[("KERNEL_X", "1")]));
        assert_eq!(
            allowed(&env(&[("KERNEL_X", "\0")])).unwrap_err().code(),
            "kernel_env"
        );
        assert!(allowed(&env(&[("KERNEL_X", &"x".repeat(MAX_ENV))])).is_err());
    }
}
