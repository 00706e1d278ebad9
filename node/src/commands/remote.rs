//! A running node, asked through its own API with the admin key of its directory.
//!
//! Answers are bounded even though the node is trusted: whatever listens on that port by now may
//! not be it.

use std::{path::Path, time::Duration};

use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    config::Config,
    data_dir::{self, DataDir, DataDirError},
    error::NodeError,
    identity::AdminKey,
    models::PullProgress,
};

/// Longest wait for a connection to this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest pause of an answer: a pull reports far more often.
const READ_TIMEOUT: Duration = Duration::from_secs(300);
/// Largest answer, and longest line of a stream.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Longest refusal that is shown.
const WORDS_MAX: usize = 500;

/// Who has the data directory.
#[derive(Debug)]
pub enum Holder {
    /// This process, until it is dropped.
    Here(DataDir),
    /// A running node.
    Node(RemoteNode),
}

/// A running node's API.
#[derive(Debug)]
pub struct RemoteNode {
    url: String,
    admin_key: AdminKey,
    client: Client,
}

/// A model as the running node lists it.
#[derive(Debug, Deserialize)]
pub struct RemoteModel {
    /// Its name.
    pub name: String,
    /// The file's size in bytes.
    #[serde(default)]
    pub size: u64,
    /// SHA-256, perhaps with `sha256:` in front.
    #[serde(default)]
    pub digest: String,
}

#[derive(Deserialize)]
struct Tags {
    models: Vec<RemoteModel>,
}

impl Holder {
    /// Takes the data directory, or finds the node that has it.
    ///
    /// # Errors
    /// Another process has it and is no node that could be asked.
    pub fn find(config: &Config) -> Result<Self, NodeError> {
        let in_use = match DataDir::open(&config.data_dir) {
            Ok(data_dir) => return Ok(Self::Here(data_dir)),
            Err(error @ DataDirError::InUse { .. }) => error,
            Err(error) => return Err(error.into()),
        };
        // A node that is still starting has no address to ask.
        let Some(info) = data_dir::read_run_info(&config.data_dir) else {
            return Err(in_use.into());
        };
        let admin_key = AdminKey::load(&data_dir::admin_key_path(&config.data_dir))?;
        let admin_key = admin_key.ok_or(in_use)?;
        Ok(Self::Node(RemoteNode::new(info.http, admin_key)?))
    }
}

impl RemoteNode {
    fn new(url: String, admin_key: AdminKey) -> Result<Self, NodeError> {
        // Already there when another client was made, which is fine too.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .build();
        match client {
            Ok(client) => Ok(Self {
                url,
                admin_key,
                client,
            }),
            Err(error) => Err(NodeError::NodeUnreachable {
                url,
                message: error.to_string(),
            }),
        }
    }

    /// Lists the models that the node serves.
    ///
    /// # Errors
    /// The node cannot be asked, or refuses.
    pub async fn list(&self) -> Result<Vec<RemoteModel>, NodeError> {
        let response = self.send(self.request(Method::GET, "/api/tags")).await?;
        let body = self.body(response).await?;
        let tags: Tags = serde_json::from_slice(&body)
            .map_err(|error| self.unreachable(format!("its answer makes no sense: {error}")))?;
        Ok(tags.models)
    }

    /// Has the node pull a model, and passes on how far it is.
    ///
    /// # Errors
    /// The node cannot be asked, or refuses, or its pull fails.
    pub async fn pull(
        &self,
        source: &str,
        mut progress: impl FnMut(&PullProgress),
    ) -> Result<(), NodeError> {
        let request = self
            .request(Method::POST, "/api/pull")
            .json(&json!({ "model": source, "stream": true }));
        let mut response = self.send(request).await?;
        let mut buffer = Vec::new();
        let mut succeeded = false;
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.broken(&error))?
        {
            buffer.extend_from_slice(&chunk);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                succeeded |= self.on_line(&line, &mut progress)?;
            }
            if buffer.len() > ANSWER_BYTES_MAX {
                return Err(self.unreachable("its answer has no end".into()));
            }
        }
        succeeded |= self.on_line(&buffer, &mut progress)?;
        if succeeded {
            Ok(())
        } else {
            Err(self.unreachable("it stopped answering before the end".into()))
        }
    }

    /// Has the node copy a file of this machine into its store; returns the model's name.
    ///
    /// # Errors
    /// The node cannot be asked, or refuses.
    pub async fn import(&self, file: &Path, name: Option<&str>) -> Result<String, NodeError> {
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let request = self
            .request(Method::POST, "/v1/models/import")
            .json(&json!({ "path": file, "name": name }));
        let body = self.body(self.send(request).await?).await?;
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        Ok(answer["name"].as_str().unwrap_or_default().to_owned())
    }

    /// Has the node write a backup to a file of this machine.
    ///
    /// # Errors
    /// The node cannot be asked, or refuses.
    pub async fn back_up(&self, file: &Path) -> Result<(), NodeError> {
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let request = self
            .request(Method::POST, "/v1/admin/backup")
            .json(&json!({ "path": file }));
        self.send(request).await.map(drop)
    }

    /// Has the node remove a model.
    ///
    /// # Errors
    /// The node cannot be asked, or refuses.
    pub async fn remove(&self, name: &str) -> Result<(), NodeError> {
        let request = self
            .request(Method::DELETE, "/api/delete")
            .json(&json!({ "model": name }));
        self.send(request).await.map(drop)
    }

    /// Reads one line of a pull; returns whether it says that all went well.
    fn on_line(
        &self,
        line: &[u8],
        progress: &mut impl FnMut(&PullProgress),
    ) -> Result<bool, NodeError> {
        if line.trim_ascii().is_empty() {
            return Ok(false);
        }
        let value: Value = serde_json::from_slice(line)
            .map_err(|error| self.unreachable(format!("its answer makes no sense: {error}")))?;
        if let Some(message) = error_words(&value) {
            return Err(NodeError::RefusedByNode { message });
        }
        let Ok(report) = serde_json::from_value::<PullProgress>(value) else {
            return Ok(false);
        };
        progress(&report);
        Ok(report.status == "success")
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(self.admin_key.reveal())
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, NodeError> {
        let response = request.send().await.map_err(|error| self.broken(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self.body(response).await?;
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        let message = error_words(&value).unwrap_or_else(|| format!("it answered {status}"));
        Err(match status {
            // The same mistake is bad usage without a running node.
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => {
                NodeError::Usage { message }
            }
            _ => NodeError::RefusedByNode { message },
        })
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, NodeError> {
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.broken(&error))?
        {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_BYTES_MAX {
                return Err(self.unreachable("its answer has no end".into()));
            }
        }
        Ok(body)
    }

    fn broken(&self, error: &reqwest::Error) -> NodeError {
        let message = if error.is_connect() {
            "nobody answers there; is it stopping?".to_owned()
        } else {
            error.to_string()
        };
        self.unreachable(message)
    }

    fn unreachable(&self, message: String) -> NodeError {
        NodeError::NodeUnreachable {
            url: self.url.clone(),
            message,
        }
    }
}

/// Finds the words in any of the API's error formats.
fn error_words(value: &Value) -> Option<String> {
    let words = value["error"]
        .as_str()
        .or_else(|| value["error"]["message"].as_str())
        .or_else(|| value["detail"].as_str())?;
    Some(words.chars().take(WORDS_MAX).collect())
}
