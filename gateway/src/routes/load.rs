//! `/v1/load`: how busy hosts are, and what kernels take of them.

use std::sync::Arc;

use alephlab_api::load::Loads;
use axum::Json;
use axum::extract::State;

use crate::auth::Account;
use crate::state::App;

/// `GET /v1/load`: the account's kernels and their hosts, as measured in the last seconds.
pub(crate) async fn all(State(app): State<Arc<App>>, account: Account) -> Json<Loads> {
    Json(app.kernels.loads_of(&account.id))
}
