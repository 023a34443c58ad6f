//! Vectors of texts, from a service that speaks OpenAI's `/embeddings`, as most do.

use primal_core::settings::Secret;
use primal_core::{Fault, Settings, SettingsError, SinkError};
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use crate::client::{Answer, Body, Http};

/// Texts in a request; OpenAI takes 2,048, others 256 and fewer.
const MOST_TEXTS: usize = 256;

const DOING: &str = "embedding texts by";

/// `embedding: { url: "https://api.openai.com/v1", model: text-embedding-3-small, key: "${OPENAI_API_KEY}" }`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EmbeddingSettings {
    url: Secret,
    model: String,
    key: Option<Secret>,
}

/// A service and the model that it is asked for.
pub(super) struct Embedder {
    http: Http,
    model: String,
}

#[derive(Deserialize)]
struct Embeddings {
    data: Vec<OneEmbedding>,
}

#[derive(Deserialize)]
struct OneEmbedding {
    index: usize,
    embedding: Vec<f32>,
}

impl Embedder {
    /// `place` is where the settings stand.
    pub(super) fn new(place: &Settings, settings: &EmbeddingSettings) -> Result<Self, SettingsError> {
        let authorization = settings.key.as_ref().map(|key| format!("Bearer {}", key.expose()));
        let http = Http::new(place, &settings.url, authorization, false)?;
        Ok(Embedder { http, model: settings.model.clone() })
    }

    /// For a notice.
    pub(super) fn name(&self) -> String {
        format!("{} at {}", self.model, self.http.address)
    }

    /// The vectors of texts, in their order.
    ///
    /// # Errors
    /// `Misconfigured` where the model makes vectors of another size; `Rejected`, without saying which, where a text
    /// cannot be embedded.
    pub(super) async fn embed(&self, texts: &[String], size: usize) -> Result<Vec<Vec<f32>>, SinkError> {
        let mut vectors = Vec::with_capacity(texts.len());
        for chunk in texts.chunks(MOST_TEXTS) {
            let answer = self.ask(chunk).await?;
            if !answer.is_good() {
                return Err(self.failed(&answer).await);
            }
            let Embeddings { mut data } = answer.json(DOING, &self.http.address)?;
            data.sort_unstable_by_key(|one| one.index);
            if !data.iter().map(|one| one.index).eq(0..chunk.len()) {
                let message = format!("{} gave {} vectors for {} texts", self.name(), data.len(), chunk.len());
                return Err(SinkError::new(Fault::Internal, message));
            }
            if let Some(other) = data.iter().find(|one| one.embedding.len() != size) {
                let message = format!(
                    "{} makes vectors of {} dimensions, and `vector.size` of the collection says {size}",
                    self.name(),
                    other.embedding.len()
                );
                return Err(SinkError::new(Fault::Misconfigured, message));
            }
            vectors.extend(data.into_iter().map(|one| one.embedding));
        }
        Ok(vectors)
    }

    async fn ask(&self, texts: &[String]) -> Result<Answer, SinkError> {
        let body = json!({ "model": self.model, "input": texts }).to_string();
        self.http.ask(DOING, Method::POST, "/embeddings", Body::Json(&body)).await
    }

    async fn failed(&self, answer: &Answer) -> SinkError {
        let fault = match answer.status {
            401 | 403 => Fault::Unauthorized,
            408 | 429 | 500 | 502..=504 => Fault::Unavailable,
            // A text that is too long, or a model that is not there, for which every event would become a dead letter:
            // a text that nobody can object to tells.
            400 | 413 | 422 if self.ask(&["text".to_owned()]).await.is_ok_and(|answer| answer.is_good()) => {
                Fault::Rejected(Vec::new())
            }
            400..=499 => Fault::Misconfigured,
            _ => Fault::Internal,
        };
        SinkError::new(fault, format!("{DOING} {}", self.name())).because(format!(
            "{}: {}",
            answer.status,
            answer.said()
        ))
    }
}
