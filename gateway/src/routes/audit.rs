//! `/v1/audit`: the log of sign-ins, tokens and credits, for the operator.

use std::sync::Arc;

use alephlab_api::audit::AuditLine;
use axum::Json;
use axum::extract::{Query, State};
use serde::Deserialize;

use super::ledger::operators_only;
use crate::auth::Account;
use crate::error::Result;
use crate::state::App;

/// Lines of one answer.
const PAGE: u32 = 1_000;

/// Where a reading goes on.
#[derive(Debug, Deserialize)]
pub(crate) struct After {
    #[serde(default)]
    after: u64,
}

/// `GET /v1/audit?after=SEQ`: lines in order, 1,000 at a time.
pub(crate) async fn lines(
    State(app): State<Arc<App>>,
    account: Account,
    Query(After { after }): Query<After>,
) -> Result<Json<Vec<AuditLine>>> {
    operators_only(&account, "reads the audit log")?;
    Ok(Json(app.store.audit_lines(after, PAGE).await?))
}
