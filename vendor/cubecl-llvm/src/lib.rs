//! A stand-in for the crate `cubecl-llvm`, whose build script downloads LLVM.
//!
//! `cubecl-cuda` links both of its kernel compilers, whichever it runs. Distillery selects the
//! CUDA C++ one (feature `cpp`, which makes `CudaBackend::default()` answer `Cpp`): the driver's
//! NVRTC compiles the kernels. The other one needs only to exist, so this crate has the names
//! that `cubecl-cuda` mentions, and its compiler answers with an error.

use std::convert::Infallible;
use std::ffi::c_char;

use cubecl_core::ir::nvidia::SmArch;
use cubecl_core::prelude::KernelDefinition;
use cubecl_environment::backtrace::BackTrace;
use cubecl_server::compiler::CompilationError;
use cubecl_server::kernel::BufferIOAttr;

pub mod nvptx {
    pub mod ptx_version {
        use std::fmt;

        /// The PTX version to emit; without LLVM there is none, so it has no values.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum PtxVersion {}

        impl PtxVersion {
            pub fn for_driver(_driver_version: i32) -> Option<Self> {
                None
            }
        }

        impl fmt::Display for PtxVersion {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {}
            }
        }
    }
}

pub mod shared {
    pub mod lowered_features {
        use cubecl_core::ir::DeviceProperties;

        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum GpuTarget {
            Nvptx,
        }

        /// Takes back what the LLVM backend cannot lower. It lowers nothing here and refuses in
        /// [`compile`](crate::PlironCompiler::compile), so the properties stay as they are.
        pub fn restrict_features(_properties: &mut DeviceProperties, _target: GpuTarget) {}
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LlvmTarget {
    Nvptx,
}

#[derive(Clone, Debug, Default)]
pub struct PlironOptions {
    pub arch: Option<String>,
    pub sm_arch: Option<SmArch>,
    pub ptx_version: Option<nvptx::ptx_version::PtxVersion>,
    pub grid_constants: bool,
}

/// What a successful compilation would hold; the last field keeps one from ever being made.
#[derive(Clone, Debug)]
pub struct NvptxModule {
    pub ir: String,
    pub ptx: Vec<c_char>,
    pub shared_memory_size: usize,
    pub io: Vec<BufferIOAttr>,
    pub never: Infallible,
}

#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PlironArtifact {
    NvptxCode(NvptxModule),
}

#[derive(Clone, Debug)]
pub struct PlironCompiler {
    pub target: LlvmTarget,
}

impl PlironCompiler {
    pub fn compile(
        &mut self,
        _kernel: KernelDefinition,
        _options: &PlironOptions,
    ) -> Result<PlironArtifact, CompilationError> {
        Err(CompilationError::Generic {
            reason: "LLVM is not built in: kernels are compiled by NVRTC \
                     (enable the feature `cuda-cpp` of cubecl)"
                .to_string(),
            backtrace: BackTrace::capture(),
        })
    }

    pub fn lang_tag(&self) -> &'static str {
        "ll"
    }
}
