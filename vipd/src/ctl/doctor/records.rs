//! The name's records: whether every place that keeps them would take this
//! node's writes, proven by a compare-and-swap that changes nothing.

use super::{Findings, Verdict};
use crate::publish::proof::{Unproven, prove};
use tokio::runtime::Runtime;
use vipd_cloud::Problem;
use vipd_config::Config;
use vipd_core::settings::Dns;

const ABOUT: &str = "records";

/// Looks at every place; says nothing where no name is kept.
pub(super) fn look(config: &Config, me: usize, runtime: &Runtime, findings: &mut Findings) {
    let Some(dns) = &config.dns else { return };
    for (place, proof) in runtime.block_on(prove(dns, &config.cluster.nodes, me)) {
        match proof {
            Ok(()) => {
                let text =
                    format!("{place} lets this node read and change {}; nothing was changed", dns.name);
                findings.good(ABOUT, text);
            }
            Err(Unproven::Unopened(why)) => {
                findings.fix(Verdict::Bad, ABOUT, format!("{place}: {why}"), key_file(dns));
            }
            Err(Unproven::Store(error)) => {
                let text = format!("{place}: {}", error.problem);
                match mend(&error.problem, dns, &place) {
                    Some(fix) => findings.fix(verdict(&error.problem), ABOUT, text, fix),
                    None => findings.add(verdict(&error.problem), ABOUT, text),
                }
            }
        }
    }
}

/// What is no fault of the settings.
fn verdict(problem: &Problem) -> Verdict {
    if matches!(problem, Problem::Contended | Problem::Throttled(_) | Problem::Paused { .. }) {
        Verdict::Unknown
    } else {
        Verdict::Bad
    }
}

fn key_file(dns: &Dns) -> String {
    let file =
        dns.rfc2136.as_ref().map_or_else(|| "KEY-FILE".to_owned(), |r| r.key_file.display().to_string());
    format!("install -m 640 -g vipd /dev/stdin {file}: the secret that the server has, in base64")
}

fn mend(problem: &Problem, dns: &Dns, place: &str) -> Option<String> {
    let (host, port) = place.rsplit_once(':').unwrap_or((place, "53"));
    let zone = dns.rfc2136.as_ref().map_or("ZONE", |r| &r.zone);
    Some(match problem {
        Problem::Unreachable(_) | Problem::TimedOut => {
            format!("ss -ltn 'sport = :{port}' there; nft insert rule inet filter input tcp dport {port} accept")
        }
        Problem::BadKey { key, .. } | Problem::BadSignature { key } | Problem::BadTsig { key } => {
            format!("dnsd keygen {key}; put the secret and the name on both sides, and reload both")
        }
        Problem::BadTime { .. } | Problem::ClockSkew { .. } => "timedatectl set-ntp true".to_owned(),
        Problem::Refused { key, .. } => format!(
            "in dnsd.toml, below the [[key]] \"{key}\": grant = [{{ name = \"{}\", types = [\"A\", \"AAAA\", \"TXT\"] }}]; \
             then systemctl reload dnsd (BIND: grant {key} name {1} A AAAA; grant {key} name _vipd.{1} TXT;)",
            dns.name, dns.name
        ),
        Problem::NotAuthoritative(_) | Problem::NotZone(_) => format!("dig @{host} -p {port} {zone} SOA"),
        Problem::NoUpdates => format!("on {host}: allow dynamic updates of {zone}, and reload"),
        Problem::Alias(name) => format!("dig @{host} -p {port} {name} CNAME; then delete it"),
        Problem::NoCredentials(why) if why.contains("hop limit") => {
            "aws ec2 modify-instance-metadata-options --instance-id ID --http-tokens required --http-put-response-hop-limit 2"
                .to_owned()
        }
        Problem::NoCredentials(_) => {
            "aws ec2 associate-iam-instance-profile --instance-id ID --iam-instance-profile Name=vipd".to_owned()
        }
        Problem::AccessDenied { action, .. } => format!(
            "aws iam put-role-policy --role-name vipd --policy-name records --policy-document file://policy.json, with {action} in it (docs/aws.md)"
        ),
        Problem::NoSuchHostedZone => "aws route53 list-hosted-zones".to_owned(),
        Problem::BadCredentials { .. } => "aws sts get-caller-identity".to_owned(),
        Problem::Contended
        | Problem::Throttled(_)
        | Problem::Paused { .. }
        | Problem::BadAnswer(_)
        | Problem::ResponseCode(_)
        | Problem::Aws { .. } => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell;

    #[test]
    fn a_refusal_comes_with_the_grant_that_is_missing() {
        let text = include_str!("../../../../config/examples/cloud.toml");
        let settings = shell::settings(Config::parse(text, "cloud.toml").expect("a good file"));
        let dns = settings.dns.expect("a name");
        let refused = Problem::Refused { key: "vipd.".into(), what: "update this name" };
        let fix = mend(&refused, &dns, "10.77.0.11:53").expect("a command");
        assert!(fix.contains(&format!("name = \"{}\"", dns.name)) && fix.contains("\"TXT\""), "{fix}");
        let denied = Problem::AccessDenied { action: "route53:GetChange", message: String::new() };
        assert!(mend(&denied, &dns, "route53/Z1").is_some_and(|fix| fix.contains("route53:GetChange")));
        assert_eq!(verdict(&Problem::Contended), Verdict::Unknown);
    }
}
