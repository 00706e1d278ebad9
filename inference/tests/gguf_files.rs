//! Whole files on disk: the committed tiny models, and what is no model file at all.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aither_inference::{
    Error,
    dequantize::dequantize,
    gguf::{Gguf, TensorType},
};

fn tiny_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/tiny")
}

fn tiny(name: &str) -> Gguf {
    Gguf::open(&tiny_folder().join(name)).expect("the tiny models are committed")
}

/// A folder of one test's own, removed when the test ends.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new(test: &str) -> Self {
        let name = format!("gguf-{test}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("the temporary folder is writable");
        Self { path }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder left behind harms nobody.
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[test]
fn every_tiny_model_opens_and_decodes_to_finite_weights() {
    let mut count = 0;
    let mut types = std::collections::BTreeSet::new();
    for file in fs::read_dir(tiny_folder()).unwrap() {
        let path = file.unwrap().path();
        let gguf = Gguf::open(&path).unwrap();
        for tensor in gguf.tensors() {
            let mut out = vec![0.0; tensor.elements()];
            dequantize(tensor.ty, tensor.data, &mut out).unwrap();
            assert!(
                out.iter().all(|weight| weight.abs() < 100.0),
                "{path:?} {}",
                tensor.name
            );
            assert!(
                out.iter().any(|weight| *weight != 0.0),
                "{path:?} {}",
                tensor.name
            );
            types.insert(tensor.ty);
        }
        count += 1;
    }
    assert_eq!(count, 16);
    assert_eq!(types.len(), TensorType::ALL.len());
}

#[test]
fn a_file_describes_itself() {
    let gguf = tiny("llama-q4_k_m.gguf");
    let info = gguf.info().unwrap();
    assert_eq!(info.architecture, "llama");
    assert_eq!(info.title.as_deref(), Some("Tiny llama-q4_k_m"));
    assert_eq!(info.quantization, "Q4_K_M");
    assert_eq!(info.context_length, 512);
    assert_eq!(info.embedding_length, 256);
    assert!(info.chat_template.unwrap().contains("<|start_header_id|>"));
    let elements: usize = gguf.tensors().map(|tensor| tensor.elements()).sum();
    assert_eq!(info.parameters, elements as u64);
    assert_eq!(gguf.size_bytes(), fs::metadata(gguf.path()).unwrap().len());
}

#[test]
fn tensors_are_found_by_name_with_their_shape() {
    let gguf = tiny("mistral.gguf");
    let query = gguf.tensor("blk.1.attn_q.weight").unwrap();
    assert_eq!(
        (query.name, query.ty),
        ("blk.1.attn_q.weight", TensorType::F32)
    );
    // Innermost first: rows of 64 for 4 heads of 24.
    assert_eq!(query.shape, [64, 96]);
    assert_eq!(query.data.len(), 64 * 96 * 4);
    assert!(gguf.tensor("blk.2.attn_q.weight").is_none());
}

#[test]
fn clones_share_one_file_across_threads() {
    fn bytes_of(gguf: &Gguf) -> usize {
        gguf.tensors().map(|tensor| tensor.data.len()).sum()
    }
    let gguf = tiny("llama.gguf");
    let clone = gguf.clone();
    let elsewhere = std::thread::spawn(move || bytes_of(&clone));
    assert_eq!(elsewhere.join().unwrap(), bytes_of(&gguf));
}

#[test]
fn a_deleted_file_stays_readable_while_it_is_open() {
    let folder = Folder::new("deleted");
    let path = folder.path.join("model.gguf");
    fs::copy(tiny_folder().join("llama-q4_0.gguf"), &path).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let embedding = gguf.tensor("token_embd.weight").unwrap();
    let mut out = vec![0.0; embedding.elements()];
    assert!(dequantize(embedding.ty, embedding.data, &mut out).is_ok());
    assert!(matches!(Gguf::open(&path), Err(Error::ModelFile { .. })));
}

#[test]
fn what_is_no_file_is_refused_with_its_path() {
    let folder = Folder::new("no-file");
    for path in [folder.path.to_owned(), folder.path.join("absent.gguf")] {
        let error = Gguf::open(&path).unwrap_err();
        assert!(matches!(&error, Error::ModelFile { path: named, .. } if *named == path));
        assert!(error.to_string().contains(&path.display().to_string()));
    }
}

#[cfg(unix)]
#[test]
fn a_socket_is_refused_without_waiting() {
    let folder = Folder::new("socket");
    let path = folder.path.join("model.gguf");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let error = Gguf::open(&path).unwrap_err();
    assert!(error.to_string().contains("not a regular file"), "{error}");
}

#[test]
fn an_empty_file_is_refused() {
    let folder = Folder::new("empty");
    let path = folder.path.join("model.gguf");
    fs::write(&path, b"").unwrap();
    assert!(matches!(Gguf::open(&path), Err(Error::InvalidGguf { .. })));
}
