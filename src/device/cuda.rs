//! Looks for CUDA before anything is asked of it: without a driver, NVRTC or its headers Burn would panic.

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::path::PathBuf;

const DRIVER: &CStr = c"libcuda.so.1";
const COMPILERS: [&CStr; 3] = [c"libnvrtc.so", c"libnvrtc.so.13", c"libnvrtc.so.12"];
/// A header that every kernel needs.
const HEADER: &str = "include/cuda_fp16.h";

type Init = unsafe extern "C" fn(c_uint) -> c_int;
type DeviceGetCount = unsafe extern "C" fn(*mut c_int) -> c_int;

/// The number of CUDA devices that can be used, or what is missing.
pub fn devices() -> Result<usize, String> {
    let driver = open(DRIVER).ok_or("no NVIDIA driver is installed (libcuda.so.1 is not found)")?;
    let count = count(driver)?;
    if count == 0 {
        return Err("the NVIDIA driver shows no device".to_string());
    }
    if !COMPILERS.iter().any(|name| open(name).is_some()) {
        return Err("the CUDA run-time compiler is not found (libnvrtc.so)".to_string());
    }
    let toolkit = toolkit().filter(|path| path.join(HEADER).exists());
    if toolkit.is_none() {
        return Err(format!(
            "the CUDA headers are not found ({HEADER} under $CUDA_PATH or /usr/local/cuda)"
        ));
    }
    Ok(count)
}

fn count(driver: *mut c_void) -> Result<usize, String> {
    let missing = "the NVIDIA driver's library is not whole";
    let (init, get_count) = (
        symbol(driver, c"cuInit"),
        symbol(driver, c"cuDeviceGetCount"),
    );
    let (Some(init), Some(get_count)) = (init, get_count) else {
        return Err(missing.to_string());
    };
    let mut count = 0;
    // SAFETY: the driver's documented functions of these names have these signatures, and `count` outlives the call.
    let code = unsafe {
        let init = std::mem::transmute::<*mut c_void, Init>(init);
        let get_count = std::mem::transmute::<*mut c_void, DeviceGetCount>(get_count);
        match init(0) {
            0 => get_count(&mut count),
            code => code,
        }
    };
    match code {
        0 => Ok(usize::try_from(count).unwrap_or(0)),
        code => Err(format!(
            "the NVIDIA driver does not start (CUDA error {code})"
        )),
    }
}

/// Where CubeCL looks for the toolkit.
fn toolkit() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("CUDA_PATH") {
        return Some(path.into());
    }
    let usual = ["/usr/local/cuda", "/opt/cuda"].map(PathBuf::from);
    (usual.into_iter().find(|path| path.exists())).or_else(|| {
        PathBuf::from("/usr/bin/nvcc")
            .exists()
            .then(|| "/usr".into())
    })
}

/// The library stays loaded: Burn opens it again.
fn open(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: loading the driver's or the compiler's library runs nothing but its own set-up.
    let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY) };
    (!library.is_null()).then_some(library)
}

fn symbol(library: *mut c_void, name: &CStr) -> Option<*mut c_void> {
    // SAFETY: `library` is a handle that dlopen has given.
    let found = unsafe { libc::dlsym(library, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}
