//! Pages on which models are bought and sold.

use std::time::Duration;

use alephlab_api::Problem;
use alephlab_api::market::MODEL_TERMS_TYPE;
use alephlab_api::money::Amount;

use crate::market::{Person, release, world};
use crate::support::World;

impl Person {
    /// A form of a page of ours: where it leads, or what it says.
    async fn press(&self, world: &World, path: &str, form: &[(&str, &str)]) -> (u16, String) {
        let mut body = url::form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(form);
        let sent = world
            .http()
            .post(format!("{}{path}", world.url))
            .bearer_auth(self.token.expose())
            .header("origin", &world.url)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.finish());
        heard(sent.send().await.unwrap()).await
    }

    async fn look(&self, world: &World, path: &str) -> (u16, String) {
        let asked = world.http().get(format!("{}{path}", world.url));
        let asked = asked
            .bearer_auth(self.token.expose())
            .header("accept", "text/html");
        heard(asked.send().await.unwrap()).await
    }
}

async fn heard(answer: reqwest::Response) -> (u16, String) {
    let status = answer.status().as_u16();
    match answer.headers().get("location") {
        Some(place) => (status, place.to_str().unwrap().to_owned()),
        None => (status, answer.text().await.unwrap()),
    }
}

#[tokio::test]
async fn what_is_wanted_in_a_browser_is_bought_by_a_wallet_and_by_nothing_else() {
    let (world, [seller, buyer]) = world(Duration::from_secs(86_400)).await;
    let (put, record) = seller.publish(&world, "digits").await;
    let asks = seller.terms(&record, Some(240), 1).await;
    seller.say(&world, MODEL_TERMS_TYPE, &asks).await;
    let place = format!("/buy/{}", record.name);
    let (status, page) = buyer.look(&world, &place).await;
    assert_eq!(status, 200);
    assert!(
        page.contains("Pay 240.00 ALEPH") && page.contains("760.00 ALEPH"),
        "{page}"
    );
    let base = "240000000000000000000";
    let pressed = [("rev", record.commit.as_str()), ("price", base)];
    // At another price than the page said, nothing is asked for.
    let (status, page) = buyer.press(&world, &place, &[pressed[0], ("price", "1")]).await;
    assert!(
        status == 200 && page.contains("It costs 240.00 ALEPH now."),
        "{page}"
    );
    assert_eq!(buyer.client.purchases().await.unwrap(), []);
    let (status, order) = buyer.press(&world, &place, &pressed).await;
    assert_eq!((status, &order[..8]), (303, "/orders/"));
    assert_eq!(
        buyer.press(&world, &place, &pressed).await.1,
        order,
        "pressed twice"
    );
    let wanted = buyer.client.purchases().await.unwrap();
    assert_eq!((wanted.len(), wanted[0].price), (1, Amount::from_whole(240)));
    assert_eq!(format!("/orders/{}", wanted[0].order), order);
    assert!(buyer.look(&world, &order).await.1.contains("Nothing is paid yet"));
    assert_eq!(seller.look(&world, &order).await.0, 404, "another account's");
    assert_eq!(seller.client.purchases().await.unwrap(), []);
    // A no of the machine is shown; nothing was paid.
    let no = Problem::new("keys_refused", "the person at the machine said no");
    let left = buyer.client.refuse_purchase(wanted[0].order, &no).await.unwrap();
    assert_eq!(left, []);
    let (_, page) = buyer.look(&world, &order).await;
    assert!(page.contains("Not bought") && page.contains("said no"), "{page}");
    assert_eq!(buyer.available().await, Amount::from_whole(1_000));
    // Asked for again, and signed: an order of the id that the page has.
    let (_, order) = buyer.press(&world, &place, &pressed).await;
    let id = buyer.client.purchases().await.unwrap()[0].order;
    let quote = buyer.client.sale_quote(&record.name, None).await.unwrap();
    let mut purchase = buyer.sign(&quote).purchase;
    purchase.order = id;
    buyer.client.buy(&buyer.signed(purchase)).await.unwrap();
    assert_eq!(buyer.client.purchases().await.unwrap(), []);
    assert!(
        buyer
            .look(&world, &order)
            .await
            .1
            .contains("the key is on its way")
    );
    assert_eq!(
        buyer.look(&world, &place).await,
        (303, order.clone()),
        "bought already"
    );
    assert!(seller.look(&world, &order).await.1.contains("digits was bought"));
    release(&world, &seller, &put).await;
    let (_, page) = buyer.look(&world, &order).await;
    assert!(page.contains("You own digits") && page.contains(base), "{page}");
    let (_, page) = buyer.press(&world, &format!("{order}/refund"), &[]).await;
    assert_eq!(page, format!("{order}?not=released"));
    // What it brought, and where its owner looks.
    let (_, page) = seller.look(&world, "/earnings").await;
    assert!(
        page.contains("228.00 <small>ALEPH") && page.contains("Earnings by day and model"),
        "{page}"
    );
    let (_, page) = buyer.look(&world, &format!("/models/{}", record.name)).await;
    assert!(page.contains("Bought for 240.00 ALEPH"), "{page}");
    assert_eq!(seller.look(&world, &place).await.0, 303, "one's own");
    let (_, page) = buyer.look(&world, "/receipts").await;
    assert!(page.contains(&order), "{page}");
    let (_, page) = buyer.look(&world, "/wallet").await;
    assert!(
        page.contains("−228.00 ALEPH") && page.contains("760.00"),
        "{page}"
    );
}

#[tokio::test]
async fn a_browser_that_asks_for_a_file_is_shown_what_it_costs() {
    let (world, [seller, buyer]) = world(Duration::from_secs(86_400)).await;
    let (_, record) = seller.publish(&world, "digits").await;
    let asks = seller.terms(&record, Some(2_400), 1).await;
    seller.say(&world, MODEL_TERMS_TYPE, &asks).await;
    let path = format!("/{}/resolve/main/model.safetensors", record.name);
    let (status, page) = buyer.look(&world, &path).await;
    assert_eq!(status, 402);
    assert!(
        page.contains("This file comes with the model") && page.contains("1,400.00 ALEPH"),
        "{page}"
    );
    let (status, page) = seller
        .press(&world, &format!("/sell/{}", record.name), &[("price", "10")])
        .await;
    assert!(
        status == 200 && page.contains("alephlab model sell digits --price 10"),
        "{page}"
    );
    assert_eq!(buyer.look(&world, &format!("/sell/{}", record.name)).await.0, 404);
}
