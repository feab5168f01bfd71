//! Execute requests: outputs, counts, silence, aborts.

use serde_json::json;

use crate::client::{only, stream, types};
use crate::serve;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_come_in_order_between_input_and_idle_and_before_the_reply_counts() {
    let served = serve().await;
    let mut client = served.client().await;
    let (reply, messages) = client
        .run("print a\nerr b\nprint c\ndisplay d\nprint e\nresult f")
        .await;
    let expected = [
        "execute_input",
        "stream",
        "stream",
        "stream",
        "display_data",
        "stream",
        "execute_result",
    ];
    assert_eq!(types(&messages), expected);
    assert_eq!(stream(&messages, "stdout"), "a\nc\ne\n");
    assert_eq!(messages[0].content["execution_count"], 1);
    assert_eq!(messages[6].content["execution_count"], 1);
    assert_eq!(messages[6].content["data"]["text/plain"], "f");
    assert_eq!(messages[6].content["transient"], json!({}));
    let content = &reply.content;
    assert_eq!(
        (&content["status"], &content["execution_count"]),
        (&json!("ok"), &json!(1))
    );
    assert_eq!(
        (&content["payload"], &content["user_expressions"]),
        (&json!([]), &json!({}))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_without_a_line_feed_and_split_characters_arrive_whole() {
    let served = serve().await;
    let mut client = served.client().await;
    let (_, messages) = client.run("write 10 %\nwrite _20 % 😀é").await;
    assert_eq!(stream(&messages, "stdout"), "10 %_20 % 😀é");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_lines_are_few_messages_and_none_is_lost() {
    let served = serve().await;
    let mut client = served.client().await;
    let (_, messages) = client.run("repeat 10000 line").await;
    assert_eq!(stream(&messages, "stdout"), "line\n".repeat(10_000));
    assert!(messages.len() < 40, "{} messages", messages.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_execution_shows_nothing_and_does_not_count() {
    let served = serve().await;
    let mut client = served.client().await;
    let (reply, messages) = client
        .run_with(json!({ "code": "set x 1\nprint a\nresult b", "silent": true, "store_history": true }))
        .await;
    assert_eq!(types(&messages), [] as [&str; 0]);
    assert_eq!(reply.content["execution_count"], 0);
    let (_, messages) = client.run("get x").await;
    assert_eq!(messages[0].content["execution_count"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_execution_that_is_not_stored_does_not_raise_the_count() {
    let served = serve().await;
    let mut client = served.client().await;
    client.run("result 1").await;
    let (reply, _) = client
        .run_with(json!({ "code": "result 2", "store_history": false }))
        .await;
    assert_eq!(reply.content["execution_count"], 1);
    let (reply, _) = client.run("result 3").await;
    assert_eq!(reply.content["execution_count"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn user_expressions_are_answered_one_by_one() {
    let served = serve().await;
    let mut client = served.client().await;
    let expressions = json!({ "good": "get x", "bad": "get y" });
    let (reply, messages) = client
        .run_with(json!({ "code": "set x 7", "user_expressions": expressions }))
        .await;
    let answers = &reply.content["user_expressions"];
    assert_eq!(answers["good"]["status"], "ok");
    assert_eq!(answers["good"]["data"]["text/plain"], "7");
    assert_eq!(answers["bad"]["status"], "error");
    assert_eq!(answers["bad"]["ename"], "NameError");
    assert_eq!(types(&messages), ["execute_input"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_is_one_message_and_a_reply_with_all_its_fields() {
    let served = serve().await;
    let mut client = served.client().await;
    let (reply, messages) = client.run("error ValueError it is wrong").await;
    assert_eq!(types(&messages), ["execute_input", "error"]);
    for content in [&reply.content, &messages[1].content] {
        assert_eq!(
            (&content["ename"], &content["evalue"]),
            (&json!("ValueError"), &json!("it is wrong"))
        );
        assert!(content["traceback"][0].as_str().unwrap().contains("it is wrong"));
    }
    assert_eq!(
        (&reply.content["status"], &reply.content["execution_count"]),
        (&json!("error"), &json!(1))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_aborts_exactly_what_was_queued() {
    let served = serve().await;
    let mut client = served.client().await;
    let gate = served.file("gate");
    let mut ids = Vec::new();
    for code in [
        format!("until {}\nerror E 1", gate.display()),
        "print two".into(),
        "print three".into(),
    ] {
        ids.push(client.ask("execute_request", json!({ "code": code })).await);
    }
    std::fs::write(&gate, "").unwrap();
    let statuses = [("error", &ids[0]), ("aborted", &ids[1]), ("aborted", &ids[2])];
    for (status, id) in statuses {
        let messages = client.until_idle(id).await;
        let reply = client.reply(id).await;
        assert_eq!(reply.content["status"], status);
        assert_eq!(messages[0].content["execution_state"], "busy");
        assert_eq!(stream(&messages, "stdout"), "");
        assert!(reply.content["execution_count"].is_number());
    }
    let (reply, messages) = client.run("print four").await;
    assert_eq!(
        (&reply.content["status"], stream(&messages, "stdout")),
        (&json!("ok"), "four\n".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_stop_on_error_the_queue_goes_on() {
    let served = serve().await;
    let mut client = served.client().await;
    let first = client
        .ask(
            "execute_request",
            json!({ "code": "error E 1", "stop_on_error": false }),
        )
        .await;
    let second = client.ask("execute_request", json!({ "code": "print on" })).await;
    assert_eq!(client.reply(&first).await.content["status"], "error");
    assert_eq!(client.reply(&second).await.content["status"], "ok");
    assert_eq!(stream(&client.until_idle(&second).await, "stdout"), "on\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn displays_are_updated_by_name_and_outputs_cleared() {
    let served = serve().await;
    let mut client = served.client().await;
    let (_, messages) = client.run("shown bar 10 %\nupdate bar 20 %\nclear").await;
    assert_eq!(
        types(&messages)[1..],
        ["display_data", "update_display_data", "clear_output"]
    );
    assert_eq!(messages[1].content["transient"]["display_id"], "bar");
    assert_eq!(messages[2].content["transient"]["display_id"], "bar");
    assert_eq!(messages[2].content["data"]["text/plain"], "20 %");
    assert_eq!(messages[3].content["wait"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_is_a_payload_of_the_reply() {
    let served = serve().await;
    let mut client = served.client().await;
    let (reply, messages) = client.run("page help").await;
    assert_eq!(types(&messages), ["execute_input"]);
    let page = &reply.content["payload"][0];
    assert_eq!(
        (&page["source"], &page["data"]["text/plain"]),
        (&json!("page"), &json!("help"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_proposes_the_next_input_and_says_when_it_was_begun() {
    let served = serve().await;
    let mut client = served.client().await;
    let (reply, _) = client.run("next 1 + 1").await;
    let payload = json!([{ "source": "set_next_input", "text": "1 + 1", "replace": false }]);
    assert_eq!(reply.content["payload"], payload);
    let started = reply.metadata["started"].as_str().unwrap();
    assert!(chrono::DateTime::parse_from_rfc3339(started).is_ok(), "{started}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashed_evaluator_answers_every_cell_with_one_error() {
    let served = serve().await;
    let mut client = served.client().await;
    for code in ["crash", "print a"] {
        let (reply, messages) = client.run(code).await;
        assert_eq!(reply.content["ename"], "EvaluatorCrashed");
        assert_eq!(only(&messages, "error").content["ename"], "EvaluatorCrashed");
    }
}
