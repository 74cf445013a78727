//! `plan`: what a run would take, from one list request; changes nothing.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::set_up::{self, Context, Signalled};
use super::{Failure, each_account, written};
use crate::cli::Flags;
use crate::config::{Account, Config, Environment, Output};
use crate::http::RateLimit;
use crate::report::text::{duration, visible};
use crate::sync::lower_bound;

/// What a whole run needs at the least: no retries, every request at once when the limit permits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Campaigns that the platform says there are.
    pub campaigns: i64,
    /// List requests.
    pub pages: i64,
    /// The limit that is kept, when it is known.
    pub limit: Option<RateLimit>,
}

impl Plan {
    /// List and sync requests; tokens are free.
    pub fn requests(&self) -> i64 {
        self.pages + self.campaigns
    }

    /// The least time under the limit; the last requests' own latency comes on top.
    pub fn lower_bound(&self) -> Option<Duration> {
        lower_bound(self.requests(), self.limit)
    }
}

pub(super) fn run(
    flags: &Flags,
    output: &Output,
    environment: Environment<'_>,
    stdout: &mut dyn Write,
) -> Result<i32, Failure> {
    let config = Config::for_api(flags, environment).map_err(Failure::usage)?;
    let signalled = Signalled::listen()?;
    each_account(&config, |account| {
        let plan = plan(&config, account, &signalled)?;
        let name = &account.name;
        let shown = if output.json { as_json(name, &plan) } else { as_text(name, &plan) };
        Ok(written(stdout, &shown))
    })
}

fn plan(config: &Config, account: &Account, signalled: &Signalled) -> Result<Plan, Failure> {
    let caller = Arc::new(set_up::caller(config, account, &Context::new())?);
    signalled.ends(&caller);
    let page_size = i32::try_from(account.page_size).unwrap_or(10);
    let Ok(page) = caller.list_first_page(page_size) else {
        return Err(match caller.ending() {
            Some(ending) => ending.into(),
            None => Failure { code: 1, message: "the plan was interrupted".into() },
        });
    };
    let size = page.limit.unwrap_or(i64::from(page_size)).clamp(1, i64::from(page_size));
    let Some(campaigns) =
        page.total.or((!page.has_more).then_some((page.records.len() + page.broken.len()) as i64))
    else {
        return Err(Failure {
            code: 5,
            message:
                "the platform does not tell how many campaigns there are: no plan without a whole listing"
                    .into(),
        });
    };
    let pages = (campaigns.max(1) - 1) / size + 1;
    Ok(Plan { campaigns, pages, limit: account.rate_limit.or_else(|| caller.known_limit()) })
}

fn as_json(account: &str, plan: &Plan) -> String {
    let bound = plan.lower_bound().map(|bound| bound.as_secs_f64());
    let finish = plan.lower_bound().and_then(expected_finish);
    json!({
        "account": account, "campaigns": plan.campaigns, "list_requests": plan.pages, "requests": plan.requests(),
        "rate_limit": plan.limit.map(|limit| limit.to_string()), "lower_bound_s": bound, "expected_finish": finish,
    })
    .to_string()
        + "\n"
}

fn as_text(account: &str, plan: &Plan) -> String {
    let mut text = format!(
        "{}: {} campaigns: {} list and {} sync requests, {} in all\n",
        visible(account),
        plan.campaigns,
        plan.pages,
        plan.campaigns,
        plan.requests()
    );
    text += &match (plan.limit, plan.lower_bound()) {
        (Some(limit), Some(bound)) => format!(
            "under the rate limit of {limit} no client can be done in less than {}: not before {}\n",
            duration(bound),
            expected_finish(bound).unwrap_or_default()
        ),
        _ => {
            "no rate limit is known: it takes as long as the platform does (--rate-limit tells one)\n".into()
        }
    };
    text
}

fn expected_finish(bound: Duration) -> Option<String> {
    let finish = jiff::Timestamp::now().checked_add(bound).ok()?;
    Some(format!("{finish:.0}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_job_takes_eleven_windows() {
        let plan = Plan { campaigns: 100, pages: 12, limit: RateLimit::new(10, Duration::from_secs(60)) };
        assert_eq!((plan.requests(), plan.lower_bound()), (112, Some(Duration::from_secs(660))));
    }

    #[test]
    fn a_job_within_one_window_takes_no_time() {
        let plan = Plan { campaigns: 9, pages: 1, limit: RateLimit::new(10, Duration::from_secs(60)) };
        assert_eq!(plan.lower_bound(), Some(Duration::ZERO));
    }
}
