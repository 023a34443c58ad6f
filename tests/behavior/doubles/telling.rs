//! Doubles that say something wrong of themselves: of their settings, their version, and what ails them.

use std::sync::Arc;

use async_trait::async_trait;
use primal_core::settings::{Settings, SettingsError};
use primal_core::sink::{Health, SinkSpec};
use primal_core::{Fault, Sink, SinkError};

use super::double::{Under, Wrong};

fn store(name: &str) -> &'static SinkSpec {
    primal_registry::find(name).unwrap()
}

#[derive(Default)]
pub struct NeverAnswers;
#[async_trait]
impl Wrong for NeverAnswers {
    fn base() -> &'static SinkSpec {
        store("postgres")
    }

    async fn check(&self, _: &Under) -> Result<Health, SinkError> {
        std::future::pending().await
    }
}

#[derive(Default)]
pub struct SaysInternal;
#[async_trait]
impl Wrong for SaysInternal {
    fn base() -> &'static SinkSpec {
        store("postgres")
    }

    async fn check(&self, under: &Under) -> Result<Health, SinkError> {
        under.sink.check().await.map_err(|error| SinkError { fault: Fault::Internal, ..error })
    }
}

#[derive(Default)]
pub struct SaysUnavailable;
#[async_trait]
impl Wrong for SaysUnavailable {
    fn base() -> &'static SinkSpec {
        store("postgres")
    }

    async fn check(&self, under: &Under) -> Result<Health, SinkError> {
        under.sink.check().await.map_err(|error| SinkError { fault: Fault::Unavailable, ..error })
    }
}

#[derive(Default)]
pub struct ShowsThePassword;
#[async_trait]
impl Wrong for ShowsThePassword {
    fn base() -> &'static SinkSpec {
        store("postgres")
    }

    async fn check(&self, under: &Under) -> Result<Health, SinkError> {
        let url: String = under.settings.member("url").unwrap().unwrap().read().unwrap();
        let context = |error: &SinkError| format!("{} at {url}", error.context);
        under.sink.check().await.map_err(|error| SinkError { context: context(&error), ..error })
    }
}

#[derive(Default)]
pub struct TakesAnySetting;
impl Wrong for TakesAnySetting {
    fn build(settings: &Settings) -> Result<Arc<dyn Sink>, SettingsError> {
        (store("memory").build)(&settings.without(&["urll"]))
    }
}

#[derive(Default)]
pub struct NeedsNoSetting;
impl Wrong for NeedsNoSetting {
    fn base() -> &'static SinkSpec {
        store("sqlite")
    }

    fn build(settings: &Settings) -> Result<Arc<dyn Sink>, SettingsError> {
        let spec = if settings.members()?.is_empty() { store("memory") } else { store("sqlite") };
        (spec.build)(settings)
    }
}

#[derive(Default)]
pub struct DocumentsNothing;
impl Wrong for DocumentsNothing {
    fn spec() -> SinkSpec {
        SinkSpec { options: &[], ..*store("memory") }
    }
}

#[derive(Default)]
pub struct NoVersion;
#[async_trait]
impl Wrong for NoVersion {
    async fn check(&self, _: &Under) -> Result<Health, SinkError> {
        Ok(Health::default())
    }
}
