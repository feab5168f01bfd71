//! What errors of the driver mean.

use candle_core::Error;
use candle_core::cuda_backend::CudaError;
use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

/// The driver's error inside one of candle's.
pub(super) fn driver_error(error: &Error) -> Option<DriverError> {
    match error {
        Error::Cuda(inner) => match inner.downcast_ref::<CudaError>()? {
            CudaError::Cuda(error) | CudaError::Load { cuda: error, .. } => Some(*error),
            _ => None,
        },
        Error::WithBacktrace { inner, .. } | Error::WithPath { inner, .. } | Error::Context { inner, .. } => {
            driver_error(inner)
        }
        _ => None,
    }
}

/// Whether a calculation failed because a GPU had no memory left.
pub(crate) fn is_out_of_memory(error: &Error) -> bool {
    driver_error(error).is_some_and(no_memory)
}

pub(super) fn no_memory(error: DriverError) -> bool {
    error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY
}

/// Whether the driver refuses our PTX.
pub(super) fn is_refused(error: DriverError) -> bool {
    matches!(
        error.0,
        CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION | CUresult::CUDA_ERROR_INVALID_PTX
    )
}

/// Whether every later call in this process fails, too.
pub(super) fn is_sticky(error: DriverError) -> bool {
    matches!(
        error.0,
        CUresult::CUDA_ERROR_ASSERT
            | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
            | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
            | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUresult::CUDA_ERROR_INVALID_PC
            | CUresult::CUDA_ERROR_LAUNCH_FAILED
            | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
            | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
            | CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | CUresult::CUDA_ERROR_UNKNOWN
    )
}

/// The driver's own text, and its name for the error.
pub(super) fn words(error: DriverError) -> String {
    match error.error_string() {
        Ok(text) => format!("{} ({:?})", text.to_string_lossy(), error.0),
        Err(_) => format!("{:?}", error.0),
    }
}
