//! The cache of compiled code on disk.
//!
//! ```text
//! <dir>/<sha256 of engine and wasm>.cwasm    mode 0600, written to a .tmp and renamed
//!   0   8  magic
//!   8  32  sha256 of the code
//!  40   *  code
//! ```
//!
//! Compiled code is run without being verified again, so a file is trusted only if no other user could
//! have written it, and if it is complete. Any other file is treated as absent: the guest is compiled
//! again and the file replaced. A failure to write is logged, and makes only the next start slower.
#![allow(
    unsafe_code,
    reason = "wasmtime's deserialize is unsafe because it trusts the bytes; the calls state why that is sound"
)]

use std::fs::{DirBuilder, File, OpenOptions};
use std::hash::Hash as _;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};
use wasmtime::component::Component;
use wasmtime::{Engine, Module};

/// Changes with the layout of the files.
const MAGIC: &[u8; 8] = b"SLVGCW01";
const DIGEST_BYTES: usize = 32;
/// Far more than any compiled guest: compiled code is about four times as large as the guest.
const FILE_BYTES_MAX: u64 = 512 << 20;
/// The permission bits of the group and of others.
const MODE_OF_OTHERS: u32 = 0o077;

/// Why a directory cannot hold compiled code.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheDirError {
    /// The directory could not be created or inspected.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The path is something else, or a symbolic link.
    #[error("is not a directory")]
    NotADirectory,
    /// Another user owns the directory.
    #[error("belongs to another user (uid {owner})")]
    NotOurs {
        /// The owner's user id.
        owner: u32,
    },
    /// Other users may read or write the directory.
    #[error("is open to other users (mode {mode:o}), set mode 700")]
    NotPrivate {
        /// Its permission bits.
        mode: u32,
    },
}

/// A private directory of compiled code, bounded in bytes.
#[derive(Debug)]
pub(crate) struct CodeCache {
    dir: PathBuf,
    bytes_max: u64,
}

/// The bytes of a file that only this user can have written, and that is complete.
struct TrustedCode(Vec<u8>);

impl CodeCache {
    pub(crate) fn open(dir: &Path, bytes_max: u64) -> Result<Self, CacheDirError> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let metadata = std::fs::symlink_metadata(dir)?;
        if !metadata.is_dir() {
            return Err(CacheDirError::NotADirectory);
        }
        if metadata.uid() != our_uid() {
            return Err(CacheDirError::NotOurs {
                owner: metadata.uid(),
            });
        }
        if metadata.mode() & MODE_OF_OTHERS != 0 {
            return Err(CacheDirError::NotPrivate {
                mode: metadata.mode() & 0o7777,
            });
        }
        Ok(Self {
            dir: dir.into(),
            bytes_max,
        })
    }

    /// The compiled module of `wasm`, if it is cached.
    pub(crate) fn module(&self, engine: &Engine, wasm: &[u8]) -> Option<Module> {
        let code = self.read(&self.path(engine, wasm))?;
        // SAFETY: deserialize requires bytes that `serialize` produced. Only this user can have written
        // them (owner and mode of the directory and of the open file were checked), this code writes
        // nothing else there, and the digest proves that they are complete. The code of another engine
        // has another name, and wasmtime checks its own version and flags, too.
        unsafe { Module::deserialize(engine, code.payload()) }.ok()
    }

    /// The compiled component of `wasm`, if it is cached.
    pub(crate) fn component(&self, engine: &Engine, wasm: &[u8]) -> Option<Component> {
        let code = self.read(&self.path(engine, wasm))?;
        // SAFETY: as in `module`; wasmtime refuses a module under the name of a component.
        unsafe { Component::deserialize(engine, code.payload()) }.ok()
    }

    /// Stores the code compiled from `wasm`. A failure is logged.
    pub(crate) fn store(
        &self,
        engine: &Engine,
        wasm: &[u8],
        serialize: impl FnOnce() -> wasmtime::Result<Vec<u8>>,
    ) {
        let path = self.path(engine, wasm);
        let written = serialize()
            .map_err(io::Error::other)
            .and_then(|code| self.write(&path, &code));
        if let Err(error) = written.and_then(|()| self.prune(&path)) {
            tracing::warn!(dir = %self.dir.display(), %error, "cannot store compiled code in the cache");
        }
    }

    /// The name depends on the content and the engine, so a changed guest or engine finds no file.
    fn path(&self, engine: &Engine, wasm: &[u8]) -> PathBuf {
        let mut hasher = Sha256Hasher(Sha256::new_with_prefix(MAGIC));
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let digest = hasher.0.chain_update(wasm).finalize();
        self.dir.join(format!("{digest:x}.cwasm"))
    }

    fn read(&self, path: &Path) -> Option<TrustedCode> {
        // A symbolic link in the directory is a mistake, or was made by another user.
        if !std::fs::symlink_metadata(path).ok()?.is_file() {
            return None;
        }
        let file = File::open(path).ok()?;
        // Of the open file, since the name may refer to another file meanwhile.
        let metadata = file.metadata().ok()?;
        let ours = metadata.is_file()
            && metadata.uid() == our_uid()
            && metadata.mode() & MODE_OF_OTHERS == 0
            && metadata.len() <= FILE_BYTES_MAX;
        if !ours {
            tracing::warn!(path = %path.display(), "a cached file is accessible to other users; compiling again");
            return None;
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (digest, code) = rest.split_first_chunk::<DIGEST_BYTES>()?;
        let whole = magic == MAGIC && Sha256::digest(code).as_slice() == digest;
        whole.then_some(TrustedCode(bytes))
    }

    fn write(&self, path: &Path, code: &[u8]) -> io::Result<()> {
        static WRITES: AtomicU64 = AtomicU64::new(0);
        // Unique among the threads and processes of a machine that share the directory.
        let unique = (std::process::id(), WRITES.fetch_add(1, Ordering::Relaxed));
        let temporary = path.with_extension(format!("{}-{}.tmp", unique.0, unique.1));
        let write = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(MAGIC)?;
            file.write_all(&Sha256::digest(code))?;
            file.write_all(code)?;
            // No sync: the digest detects a file that a crash has left incomplete.
            std::fs::rename(&temporary, path)
        };
        write().inspect_err(|_| drop(std::fs::remove_file(&temporary)))
    }

    /// Deletes the oldest files while the directory is too large, but never the one just written.
    fn prune(&self, newest: &Path) -> io::Result<()> {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            let path = entry.path();
            let known = path
                .extension()
                .is_some_and(|kind| kind == "cwasm" || kind == "tmp");
            if metadata.is_file() && known && path != newest {
                files.push((metadata.modified()?, metadata.len(), path));
            }
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        total += std::fs::metadata(newest)?.len();
        for (_, bytes, path) in files {
            if total <= self.bytes_max {
                break;
            }
            std::fs::remove_file(path)?;
            total -= bytes;
        }
        Ok(())
    }
}

impl TrustedCode {
    fn payload(&self) -> &[u8] {
        &self.0[MAGIC.len() + DIGEST_BYTES..]
    }
}

fn our_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Computes a SHA-256 digest through the `Hash` implementation of the engine.
struct Sha256Hasher(Sha256);

impl std::hash::Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        // Never called: the digest is taken from the field.
        0
    }
}
