//! A change that Route 53 must refuse for what it says, and by which it shows
//! that it would take a real one.

use super::{Route53, Trouble, sets};
use crate::error::{Error, Problem};
use aws_sdk_route53::types::{ChangeBatch, RrType};
use tokio::time::Instant;

/// A change that there never was.
const NO_CHANGE: &str = "C00000000DOCTOR";

impl Route53 {
    /// Proves that the credentials may list the name's records, change them
    /// and follow a change, and changes nothing. Permissions come first; then
    /// the batch is refused as a whole, since it deletes what is not there.
    ///
    /// # Errors
    /// What a real change would fail of.
    pub async fn prove(&self, deadline: Instant) -> Result<(), Error> {
        let result = async {
            self.read_sets(deadline).await?;
            self.refused_change(deadline).await?;
            let follow = self.client.get_change().id(NO_CHANGE).send();
            match self.request(follow, "route53:GetChange", deadline).await {
                Ok(_) => Ok(()),
                // There is no such change, as is right.
                Err(Trouble { problem: Problem::Aws { .. }, .. }) => Ok(()),
                Err(trouble) => Err(trouble),
            }
        };
        match result.await {
            Ok(()) => Ok(()),
            Err(Trouble { problem, .. }) => Err(self.explain(problem, deadline).await),
        }
    }

    async fn refused_change(&self, deadline: Instant) -> Result<(), Trouble> {
        let bad = |problem| Trouble { is_unknown: false, problem };
        let batch = self.nothing().map_err(bad)?;
        let change =
            self.client.change_resource_record_sets().hosted_zone_id(&self.zone_id).change_batch(batch);
        match self.request(change.send(), "route53:ChangeResourceRecordSets", deadline).await {
            // Said also of a name that does not lie in the zone, in these words.
            Err(Trouble { problem: Problem::Aws { code, message }, .. })
                if code == "InvalidChangeBatch" && !message.contains("not permitted in zone") =>
            {
                Ok(())
            }
            Err(trouble) => Err(trouble),
            Ok(_) => {
                let what = "a change was taken that deletes what is not there";
                Err(bad(Problem::BadAnswer(what.to_owned())))
            }
        }
    }

    /// All actions and types of a real change; the first of it fails.
    fn nothing(&self) -> Result<ChangeBatch, Problem> {
        let set = |name, kind, value: &str| sets::set(name, &kind, 1, vec![value.to_owned()], None);
        // No node writes this text, or has such an address.
        let txt = set(&self.lease_name, RrType::Txt, "\"vipd doctor\"")?;
        let a = set(&self.name, RrType::A, "0.0.0.0")?;
        let aaaa = set(&self.name, RrType::Aaaa, "::")?;
        let old = sets::Sets { lease: vec![txt.clone()], addresses: vec![a, aaaa] };
        let new = sets::Sets { lease: vec![txt], addresses: vec![] };
        let changes = sets::swap(&old, &new)?;
        ChangeBatch::builder()
            .comment("vipd doctor: to be refused")
            .set_changes(Some(changes))
            .build()
            .map_err(|e| Problem::BadAnswer(format!("cannot build the change: {e}")))
    }
}
