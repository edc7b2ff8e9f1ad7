//! `[[notify]]`, and where the status page listens.

use super::Names;
use super::election::within;
use super::kinds::command;
use super::pool::SHORTEST;
use crate::report::{At, Problem, Report};
use crate::shape::{Field, Table};
use crate::spec::{NotifySpec, StatusSpec};
use crate::{Notify, On, Status};
use std::time::Duration;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// A longer one would keep the hooks behind it waiting for too long.
const MAX_TIMEOUT: Duration = Duration::from_secs(600);
/// Each of them runs for each event, one after the other.
const MAX_HOOKS: usize = 16;

/// The hooks, in the file's order.
pub(super) fn judge(tables: Vec<Option<At<NotifySpec>>>, report: &mut Report<'_>) -> Vec<Notify> {
    let mut names = Vec::new();
    let mut hooks = Vec::new();
    for (position, table) in tables.into_iter().enumerate() {
        let Some(At { value: spec, span }) = table else {
            names.push(None);
            continue;
        };
        if position == MAX_HOOKS {
            report.error(
                &span,
                Problem::new(format!("more than {MAX_HOOKS} [[notify]] tables"))
                    .hint("they run one after the other: let one command tell several places"),
            );
        }
        let name = spec.name.need("name", "each hook has a name: name = \"pager\"", &span, report).ok();
        names.push(name.map(|At { value, span }| At { value: value.0, span }));
        let missing = "what is run: command = [\"/usr/local/bin/vip-changed\"]";
        let command = spec.command.need("command", missing, &span, report).ok();
        let timeout = spec.timeout.ok("timeout", report);
        if let Some(At { value, span }) = &timeout {
            within("timeout", *value, SHORTEST, MAX_TIMEOUT, span, report);
        }
        let on = spec.on.ok("on", report).map(|At { value, span }| {
            let words = value.open("on", report);
            if words.is_empty() {
                super::empty_list("on", &span, report);
            }
            words.into_iter().flatten().map(|w| w.value).collect()
        });
        hooks.push(Notify {
            name: names.last().and_then(Option::as_ref).map(|n| n.value.clone()).unwrap_or_default(),
            command: command.map(|c| self::command(c, report)).unwrap_or_default(),
            on: on.unwrap_or_else(|| On::STATES.to_vec()),
            user: spec.user.ok("user", report).map(|u| u.value.0),
            timeout: timeout.map_or(DEFAULT_TIMEOUT, |t| t.value),
        });
    }
    Names::new("hook", names, report);
    hooks
}

/// The status page; elsewhere than on loopback it is protected.
pub(super) fn status(field: Field<Table<StatusSpec>>, report: &mut Report<'_>) -> Option<At<Status>> {
    let At { value, span } = field.ok("[status]", report)?;
    let StatusSpec { http, token_file } = value.open(report);
    let http = http.need("http", "the status page's address: http = \"127.0.0.1:9112\"", &span, report);
    let token_file = token_file.get("token-file", report);
    let At { value: http, span } = http.ok()?;
    if let Ok(None) = token_file
        && !http.0.ip().is_loopback()
    {
        report.error(
            &span,
            Problem::new(format!("http: {} can be reached from other hosts, and nothing protects it", http.0)).hint(
                "token-file = \"/etc/vipd/status.token\" names the file of a secret that readers must know; or listen on 127.0.0.1",
            ),
        );
    }
    let token_file = token_file.ok().flatten().map(|f| f.value.0);
    Some(At { value: Status { http: http.0, token_file }, span })
}
