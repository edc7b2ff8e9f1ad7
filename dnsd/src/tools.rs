//! `dnsd check` and `dnsd keygen`.

use crate::cli::Keygen;
use crate::tsig::Key;
use crate::zone::file;
use data_encoding::BASE64;
use std::fmt::Write as _;
use std::path::Path;
use vipd_config::dnsd::Config;
use vipd_core::settings::KeyAlgorithm;

/// Judges the configuration, the zone files and the keys. Gives what was found
/// right, or every error, a line each.
///
/// # Errors
///
/// What is wrong.
pub fn check(path: &Path) -> Result<String, String> {
    let config = Config::load(path).map_err(|errors| errors.to_string())?;
    let keys = config.keys.iter().filter_map(|key| Key::load(key).err()).map(|error| error.to_string());
    let zones = config.zones.iter().filter_map(|zone| file::load(zone).err()).map(|error| error.to_string());
    let errors: Vec<_> = keys.chain(zones).collect();
    if !errors.is_empty() {
        return Err(errors.join("\n"));
    }
    let mut text = config.warnings.iter().map(|warning| format!("{warning}\n")).collect::<String>();
    text.extend(config.keys.iter().filter_map(Key::exposed).map(|warning| warning + "\n"));
    let (zones, keys, addresses) = (config.zones.len(), config.keys.len(), config.listen.len());
    let _ = writeln!(text, "{}: right ({zones} zones, {keys} keys, {addresses} addresses)", path.display());
    Ok(text)
}

/// A new key, and what to write where.
///
/// # Errors
///
/// When the name is none, or the system gives no random bytes.
pub fn keygen(order: &Keygen) -> Result<String, String> {
    let name = order.name.trim_end_matches('.').to_ascii_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(format!("{:?} is not a name for a key: letters, digits, hyphens and dots", order.name));
    }
    let hash = KeyAlgorithm::from(order.algorithm);
    let algorithm = hash.name();
    // As long as the hash (RFC 2104, section 3).
    let mut secret = vec![0; hash.output()];
    getrandom::fill(&mut secret).map_err(|error| format!("cannot get random bytes: {error}"))?;
    let secret = BASE64.encode(&secret);
    // vipd's default needs no line.
    let for_vipd = match hash {
        KeyAlgorithm::HmacSha256 => String::new(),
        KeyAlgorithm::HmacSha384 | KeyAlgorithm::HmacSha512 => format!("key-algorithm = \"{algorithm}\"\n"),
    };
    Ok(format!(
        r#"# The secret, alone in a file that only the daemon may read (chmod 600):
# /etc/dnsd/{name}.key here, /etc/vipd/tsig.key on each host of vipd.
{secret}

# /etc/dnsd/dnsd.toml
[[key]]
name = "{name}."
algorithm = "{algorithm}"
secret-file = "/etc/dnsd/{name}.key"
grant = [ {{ name = "db.corp.example.", types = ["A", "AAAA", "TXT"] }} ]

# /etc/vipd/vipd.toml
[dns.rfc2136]
servers = ["10.77.0.11:53"]
zone = "corp.example."
key-name = "{name}."
{for_vipd}key-file = "/etc/vipd/tsig.key"

# The proof, with your server, zone and name:
printf 'server 10.77.0.11 53\nzone corp.example.\nupdate add _proof.db.corp.example. 5 TXT works\nshow\nsend\nanswer\nupdate delete _proof.db.corp.example. TXT\nsend\n' | nsupdate -y "{algorithm}:{name}.:$(cat /etc/dnsd/{name}.key)"
"#
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Hash;

    #[test]
    fn a_new_key_fits_its_hash_and_no_two_are_the_same() {
        let order = |name: &str, algorithm| keygen(&Keygen { name: name.into(), algorithm });
        let one = order("Vipd", Hash::HmacSha512).unwrap();
        let secret = |text: &str| text.lines().nth(2).map(str::to_owned).unwrap();
        assert_eq!(BASE64.decode(secret(&one).as_bytes()).unwrap().len(), 64);
        assert!(one.contains("name = \"vipd.\"") && one.contains("hmac-sha512:vipd.:"));
        assert!(one.contains("key-name = \"vipd.\"\nkey-algorithm = \"hmac-sha512\"\nkey-file"));
        let default = order("vipd", Hash::HmacSha256).unwrap();
        assert!(default.contains("key-name = \"vipd.\"\nkey-file"), "{default}");
        // vipd takes its lines as they are.
        let head = "[cluster]\nname = \"orders\"\nnodes = [ { name = \"px1\", address = \"10.77.0.11\" } ]\n\
                    [[listen]]\nname = \"db\"\nbind = \":3306\"\npool = \"db\"\n\
                    [[pool]]\nname = \"db\"\nservers = [\"10.77.0.21:3306\"]\n[dns]\nname = \"db.corp.example.\"\n";
        let (_, lines) = one.split_once("# /etc/vipd/vipd.toml\n").unwrap();
        let (lines, _) = lines.split_once("\n\n").unwrap();
        vipd_config::Config::parse(&format!("{head}{lines}"), "vipd.toml").unwrap();
        assert_ne!(secret(&one), secret(&order("vipd.", Hash::HmacSha512).unwrap()));
        assert!(order("a b", Hash::HmacSha256).is_err());
    }
}
