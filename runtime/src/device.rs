//! Where tensors are calculated. Called by notebooks.

use candle_core::Device;

use crate::Result;

/// The device of this kernel: its CPU.
///
/// # Errors
/// None on a CPU; other devices can fail to open.
pub fn device() -> Result<Device> {
    Ok(Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_cpu() {
        assert!(device().unwrap().is_cpu());
    }
}
