//! The registry's pages: models to look through and one by one, publishing, shares and datasets. Complete without script.
//!
//! `handlers` and `opening` have the routes; every other file is what a page shows of what it is given, and asks nothing of anybody. The pages
//! prepare commands and never a token: keys are on owners' machines.

mod browse;
mod command;
mod datasets;
mod evidence;
mod handlers;
mod markdown;
mod model;
mod models;
mod notebook;
mod opening;
mod print;
mod publish;
mod rows;
mod shares;
mod snippets;
mod visitor;

use super::pages::short;
pub(super) use browse::capital;
pub(super) use command::Command;
pub(super) use handlers::{not_found, see, show as show_page, visitor};
pub(super) use model::{Badge, badge};
pub(super) use print::Print;
use visitor::shown_name;
pub(super) use visitor::{Visitor, short_name};

pub(crate) use handlers::{
    ask_revoke, browse_models, datasets, model_card, model_tab, prepare_grant, prepare_publish,
    prepare_share, publish_form, revoke_share, share_form, share_page, shares,
};
pub(crate) use opening::{open_in_notebook, open_share_in_notebook};
