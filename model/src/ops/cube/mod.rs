//! Fused kernels for devices, written once in CubeCL (<https://github.com/tracel-ai/cubecl>) and compiled at run time for
//! the device at hand: CUDA C++ on NVIDIA, SPIR-V on Vulkan.
//!
//! Inputs may be narrow (`bf16`, `f16`); arithmetic is in `f32`. No kernel adds atomically: sums have a fixed shape, so
//! that one device gives the same bits on every run. Products of matrices stay with Burn.
//!
//! A kernel over rows runs one workgroup of [`UNITS`] threads a row; an elementwise one a thread an element. This file is
//! the only place where Burn's tensors become buffers and back.

pub mod attention;
pub mod embedding;
pub mod reduce;
pub mod rms_norm;
pub mod rope;
pub mod swiglu;

use burn::backend::{Cube, DType};
use burn::tensor::{Element, Shape, Tensor};
use burn_cubecl::kernel::into_contiguous;
pub use burn_cubecl::tensor::CubeTensor;
use bytemuck::Pod;
use cubecl::CubeCount;
use cubecl::ir::{ElemType, FloatKind};

/// Threads of a workgroup; every device has at least so many.
pub const UNITS: u32 = 256;

/// Workgroups in the first dimension of a launch: Vulkan promises 65535.
const WIDE: usize = 32768;

/// Whether these kernels run where `x` lives and know its type.
pub fn runs<const D: usize>(x: &Tensor<D>) -> bool {
    matches!(x.dtype(), DType::F32 | DType::F16 | DType::BF16)
        && x.clone().try_into_primitive::<Cube>().is_ok()
}

/// The buffer of a device's tensor, row-major.
///
/// # Panics
/// When the tensor does not live on a device: [`runs`] says so.
pub fn buffer<const D: usize>(x: &Tensor<D>) -> CubeTensor {
    owned_buffer(x.clone())
}

/// As [`buffer`]; may be written to where [`CubeTensor::can_mut`] says that nobody else holds it.
pub fn owned_buffer<const D: usize>(x: Tensor<D>) -> CubeTensor {
    let primitive = x
        .try_into_primitive::<Cube>()
        .expect("checked to be on a device");
    into_contiguous(primitive)
}

/// A buffer that may be written to: the tensor's own if nobody else holds it, else a copy.
pub fn writable<const D: usize>(x: Tensor<D>) -> CubeTensor {
    let buffer = owned_buffer(x);
    match buffer.can_mut() {
        true => buffer,
        false => buffer.copy(),
    }
}

/// A buffer as a tensor of its shape.
pub fn tensor<const D: usize>(buffer: CubeTensor) -> Tensor<D> {
    Tensor::from_primitive::<Cube>(buffer)
}

/// A buffer on the device of `like`, to be written by a kernel.
pub fn empty<const D: usize>(like: &CubeTensor, shape: [usize; D], dtype: DType) -> CubeTensor {
    let bytes = shape.iter().product::<usize>() * dtype.size();
    let handle = like.client.empty(bytes.max(dtype.size()));
    contiguous(like, shape, handle, dtype)
}

/// Numbers sent to the device of `like`; the host does not wait for it.
pub fn upload<E: Element + Pod>(like: &CubeTensor, values: &[E]) -> CubeTensor {
    let handle = match values {
        [] => like.client.empty(size_of::<E>()),
        _ => like.client.create_from_slice(bytemuck::cast_slice(values)),
    };
    contiguous(like, [values.len()], handle, E::dtype())
}

fn contiguous<const D: usize>(
    like: &CubeTensor,
    shape: [usize; D],
    handle: cubecl::server::Handle,
    dtype: DType,
) -> CubeTensor {
    let (client, device) = (like.client.clone(), like.device.clone());
    CubeTensor::new_contiguous(client, device, Shape::from(shape), handle, dtype)
}

/// The kernel's type for a tensor's.
///
/// # Panics
/// For a type that [`runs`] does not admit.
pub fn element(dtype: DType) -> ElemType {
    ElemType::Float(match dtype {
        DType::F32 => FloatKind::F32,
        DType::F16 => FloatKind::F16,
        DType::BF16 => FloatKind::BF16,
        other => panic!("{other:?} has no kernels"),
    })
}

/// `count` workgroups or a few more, for kernels that look at `CUBE_POS`.
pub fn workgroups(count: usize) -> CubeCount {
    let wide = count.clamp(1, WIDE);
    CubeCount::Static(wide as u32, count.div_ceil(wide) as u32, 1)
}

/// Workgroups of [`UNITS`] threads for `count` elements, for kernels that look at `ABSOLUTE_POS`.
pub fn workgroups_for_elements(count: usize) -> CubeCount {
    workgroups(count.div_ceil(UNITS as usize))
}
