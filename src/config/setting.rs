//! One setting: where its text comes from, and what is said when it makes no sense.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::{ConfigError, Environment, duration, value};

/// A setting's text, and what to call it in an error.
#[derive(Debug)]
pub(super) struct Given {
    /// The setting alone: for values that must not be shown.
    pub name: String,
    /// The setting with its value.
    pub shown: String,
    /// The value.
    pub text: String,
}

/// Where a setting may come from, the strongest first: accounts file, flag, environment, config file.
pub(super) struct Source<'a> {
    /// From the accounts file.
    pub file: Option<Given>,
    /// The flag's name; empty when there is none.
    pub flag: &'static str,
    /// What the flag was given.
    pub given: Option<&'a String>,
    /// The variable's name; empty when there is none.
    pub variable: &'static str,
}

impl<'a> Source<'a> {
    /// A setting with a flag and perhaps a variable.
    pub fn new(flag: &'static str, variable: &'static str, given: &'a Option<String>) -> Self {
        Self { file: None, flag, given: given.as_ref(), variable }
    }

    /// The same, unless the accounts file says otherwise.
    pub fn or_file(self, file: Option<Given>) -> Self {
        Self { file, ..self }
    }

    pub fn find(self, environment: Environment<'_>) -> Result<Option<Given>, ConfigError> {
        let flag = self.flag;
        if self.file.is_some() {
            return Ok(self.file);
        }
        if let Some(text) = self.given {
            return Ok(Some(Given {
                name: flag.into(),
                shown: format!("{flag} {text:?}"),
                text: text.clone(),
            }));
        }
        let Some(value) = value(environment, self.variable) else {
            let named = if flag.is_empty() { self.variable } else { flag };
            return Ok(environment.file.and_then(|file| file.given(named)));
        };
        let behind = if flag.is_empty() { String::new() } else { format!(" ({flag})") };
        let name = format!("{}{behind}", self.variable);
        let text = value.into_string().map_err(|_| ConfigError(format!("{name}: not UTF-8")))?;
        Ok(Some(Given { shown: format!("{}={text:?}{behind}", self.variable), name, text }))
    }

    pub fn parsed<T>(
        self,
        environment: Environment<'_>,
        valid: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(given) = self.find(environment)? else { return Ok(None) };
        parse(&given.text).map(Some).ok_or_else(|| ConfigError(format!("{}: must be {valid}", given.shown)))
    }

    /// A switch: on by its flag, or by `true` in the config file.
    pub fn is_on(flag: &'static str, given: bool, environment: Environment<'_>) -> bool {
        given || environment.file.and_then(|file| file.given(flag)).is_some_and(|given| given.text == "true")
    }

    pub fn duration(self, environment: Environment<'_>) -> Result<Option<Duration>, ConfigError> {
        self.parsed(environment, "a duration such as 500ms, 30s, 5m or 1h", duration::duration)
    }

    pub fn number(
        self,
        environment: Environment<'_>,
        range: RangeInclusive<u32>,
        default: u32,
    ) -> Result<u32, ConfigError> {
        let valid = format!("a whole number from {} to {}, such as {default}", range.start(), range.end());
        let parse = |text: &str| text.parse().ok().filter(|number| range.contains(number));
        Ok(self.parsed(environment, &valid, parse)?.unwrap_or(default))
    }
}
