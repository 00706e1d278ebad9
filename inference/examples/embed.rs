//! Embeds lines of text: `embed MODEL.gguf [--threads N] [--convert DIR]`.
//!
//! Reads JSON strings from standard input, one a line, and writes a JSON array for each. With
//! `--rounds N` it embeds all of them so often, and writes how long each round took instead.

use std::{
    error::Error,
    io::{self, BufRead, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use aither_inference::embedding::{
    Embedder, EmbedderConfig, Urgency,
    convert::{SentenceModel, write_gguf},
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = PathBuf::from(arguments.next().ok_or("which model file?")?);
    let (mut config, mut rounds) = (EmbedderConfig::default(), 0);
    while let Some(argument) = arguments.next() {
        let value = arguments.next().ok_or("an option without its value")?;
        match argument.as_str() {
            "--threads" => config.threads = value.parse()?,
            "--rounds" => rounds = value.parse()?,
            "--convert" => return convert(Path::new(&value), &model),
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    let embedder = Embedder::open(&model, config)?;
    let mut texts = Vec::new();
    for line in io::stdin().lock().lines() {
        texts.push(serde_json::from_str::<String>(&line?)?);
    }
    let mut output = io::stdout().lock();
    for _ in 0..rounds {
        let started = Instant::now();
        let done = embedder.embed(&texts, Urgency::Bulk)?;
        let seconds = started.elapsed().as_secs_f64();
        let read: usize = done.iter().map(|one| one.prompt_tokens).sum();
        let line = serde_json::json!({ "seconds": seconds, "texts": done.len(), "read": read });
        writeln!(output, "{line}")?;
        output.flush()?;
    }
    if rounds == 0 {
        for embedding in embedder.embed(&texts, Urgency::Bulk)? {
            writeln!(output, "{}", serde_json::to_string(&embedding.vector)?)?;
        }
    }
    Ok(())
}

/// Makes a GGUF file of a folder as `sentence-transformers` has it.
fn convert(from: &Path, to: &Path) -> Result<(), Box<dyn Error>> {
    let text = |name: &str| std::fs::read_to_string(from.join(name));
    let sentence_config = text("sentence_bert_config.json").ok();
    let pooling = text("1_Pooling/config.json").ok();
    let model = SentenceModel {
        title: "all-minilm:l6-v2",
        weights: &std::fs::read(from.join("model.safetensors"))?,
        config: &text("config.json")?,
        vocabulary: &text("vocab.txt")?,
        sentence_config: sentence_config.as_deref(),
        pooling: pooling.as_deref(),
    };
    let mut file = io::BufWriter::new(std::fs::File::create(to)?);
    write_gguf(&model, &mut file)?;
    file.flush()?;
    Ok(())
}
