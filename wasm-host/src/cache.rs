//! Compiled code on disk.
//!
//! ```text
//! <dir>/<sha256 of engine and wasm>.cwasm    mode 0600, written to a .tmp and renamed
//!   0   8  magic
//!   8  32  sha256 of the code
//!  40   *  code
//! ```
//!
//! Compiled code is run without being verified again, so a file is believed only if nobody but this
//! user could have written it, and if it is whole. Any other file counts as absent: the guest is
//! compiled again and the file replaced. A failure to write is logged and costs only the next start.
#![allow(
    unsafe_code,
    reason = "wasmtime's deserialize is unsafe because it believes the bytes; why we do is stated there"
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

/// Changes whenever the layout of the files does.
const MAGIC: &[u8; 8] = b"SLVGCW01";
const DIGEST_BYTES: usize = 32;
/// Compiled code is about four times as large as the guest; this is far above any.
const FILE_BYTES_MAX: u64 = 512 << 20;
/// Group and others.
const MODE_OF_OTHERS: u32 = 0o077;

/// Why a directory cannot hold compiled code.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheDirError {
    /// It could not be made or looked at.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is something else, or a symbolic link.
    #[error("is not a directory")]
    NotADirectory,
    /// Another user owns it.
    #[error("belongs to another user (uid {owner})")]
    NotOurs {
        /// Who.
        owner: u32,
    },
    /// Others may read or write it.
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

/// A file's bytes that only this user can have written, whole as they were written.
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

    /// The compiled module of `wasm`, if it is here.
    pub(crate) fn module(&self, engine: &Engine, wasm: &[u8]) -> Option<Module> {
        let code = self.read(&self.path(engine, wasm))?;
        // SAFETY: deserialize demands bytes that `serialize` made. Only this user can have written
        // them (owner and mode of directory and open file were checked), this code writes nothing
        // else there, and the digest says that they are whole. Another engine's code has another
        // name, and wasmtime checks its own version and flags besides.
        unsafe { Module::deserialize(engine, code.payload()) }.ok()
    }

    /// The compiled component of `wasm`, if it is here.
    pub(crate) fn component(&self, engine: &Engine, wasm: &[u8]) -> Option<Component> {
        let code = self.read(&self.path(engine, wasm))?;
        // SAFETY: as in `module`; a module under a component's name is refused by wasmtime.
        unsafe { Component::deserialize(engine, code.payload()) }.ok()
    }

    /// Keeps what was compiled from `wasm`. Failing to is no failure of the caller.
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
            tracing::warn!(dir = %self.dir.display(), %error, "compiled code was not kept");
        }
    }

    /// Content and engine make the name, so a changed guest or engine finds nothing.
    fn path(&self, engine: &Engine, wasm: &[u8]) -> PathBuf {
        let mut hasher = HashIntoSha(Sha256::new_with_prefix(MAGIC));
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let digest = hasher.0.chain_update(wasm).finalize();
        self.dir.join(format!("{digest:x}.cwasm"))
    }

    fn read(&self, path: &Path) -> Option<TrustedCode> {
        // A link planted in the directory would be another user's, or a mistake.
        if !std::fs::symlink_metadata(path).ok()?.is_file() {
            return None;
        }
        let file = File::open(path).ok()?;
        // Of the open file: what a name points to may change under us.
        let metadata = file.metadata().ok()?;
        let ours = metadata.is_file()
            && metadata.uid() == our_uid()
            && metadata.mode() & MODE_OF_OTHERS == 0
            && metadata.len() <= FILE_BYTES_MAX;
        if !ours {
            tracing::warn!(path = %path.display(), "compiled code is not private, compiling anew");
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
        // Unique among the threads and processes of one machine, which share the directory.
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
            // No sync: after a crash, the digest tells a torn file from a whole one.
            std::fs::rename(&temporary, path)
        };
        write().inspect_err(|_| drop(std::fs::remove_file(&temporary)))
    }

    /// Deletes the oldest files while there are too many bytes, never the one just written.
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

/// Lets the engine, which only knows how to hash itself for a map, hash itself for a name.
struct HashIntoSha(Sha256);

impl std::hash::Hasher for HashIntoSha {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        // Hashing into a digest needs no number; nothing asks for it.
        0
    }
}
