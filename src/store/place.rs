//! Which schema the tables of this installation are in.

use std::sync::OnceLock;

use postgres::{Client, Error};

use super::schema;
use super::schema_name::{Choice, SchemaName};
use super::survey::Survey;

/// The schema of our tables: what is asked for or, once it has been looked for, what is found.
#[derive(Debug, Default)]
pub(super) struct Place {
    asked: SchemaName,
    located: OnceLock<(SchemaName, Choice)>,
}

impl Place {
    /// `None`: to be looked for.
    pub(super) fn new(setting: Option<SchemaName>) -> Self {
        let located = OnceLock::new();
        if let Some(name) = setting {
            let _new = located.set((name, Choice::Setting));
        }
        Self { asked: SchemaName::default(), located }
    }

    pub(super) fn schema(&self) -> &SchemaName {
        self.located.get().map_or(&self.asked, |(name, _)| name)
    }

    pub(super) fn choice(&self) -> Choice {
        self.located.get().map_or(Choice::Default, |(_, choice)| *choice)
    }

    /// Looks for an installation, once: a process works in one schema from its first statement to its last.
    pub(super) fn locate(&self, client: &mut Client) -> Result<(), Error> {
        if self.located.get().is_none() {
            let survey = Survey::take(client, &self.asked)?;
            let found = locate(client, &survey)?;
            let _another_thread_was_first = self.located.set(found);
        }
        Ok(())
    }
}

const FIRST_CHECKSUM: &str = "SELECT checksum FROM campaign_sync.schema_migrations WHERE version = 1";

fn locate(client: &mut Client, survey: &Survey) -> Result<(SchemaName, Choice), Error> {
    let asked = survey.schema_asked_for();
    // A connection that says where to look has its tables nowhere else: there may be a second installation.
    let elsewhere = |name: &str| asked.is_some() && !survey.path.iter().any(|schema| schema == name);
    for name in survey.candidates().filter(|name| !elsewhere(name)).filter_map(SchemaName::new) {
        let Some(history) = survey.history_in(name.as_str()) else { continue };
        if history.may_read && holds_ours(client, &name)? {
            return Ok((name, Choice::Found));
        }
    }
    Ok(asked.map_or((SchemaName::default(), Choice::Default), |name| (name, Choice::SearchPath)))
}

/// Whether the first migration of this schema is ours; it is only asked where its owner is trusted.
fn holds_ours(client: &mut Client, name: &SchemaName) -> Result<bool, Error> {
    let row = client.query_typed_opt(&name.statement(FIRST_CHECKSUM), &[])?;
    Ok(row.is_some_and(|row| row.get::<_, Option<&str>>(0) == Some(&*schema::first_checksum())))
}
