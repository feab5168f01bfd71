//! Stdin: who is asked, who may answer, who may not be asked.

use alephlab_kernel::Parent;
use bytes::Bytes;
use serde_json::json;
use zeromq::{SocketSend, ZmqMessage};

use crate::client::{Client, Message, stream};
use crate::serve;

/// Answers a question by its name; `identities` come before the message, as on a way through another socket.
async fn answer_to(client: &mut Client, question: &Message, identities: &[Bytes], value: &str) {
    let content = json!({ "status": "ok", "value": value });
    let parent = Parent::of(&question.header);
    let parts = client
        .session
        .encode("input_reply", &parent, &json!({}), &content);
    let message = ZmqMessage::try_from(parts.frames(identities)).unwrap();
    client.stdin.send(message).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_client_that_sent_the_cell_is_asked_and_may_answer() {
    let served = serve().await;
    let mut asked = served.client().await;
    let mut other = Client::connect(&served.info, "client-2").await;
    let id = asked
        .ask(
            "execute_request",
            json!({ "code": "print before\ninput name?", "allow_stdin": true }),
        )
        .await;
    let question = asked.question().await;
    assert_eq!(
        (question.msg_type.as_str(), question.parent.as_deref()),
        ("input_request", Some(id.as_str()))
    );
    assert_eq!(question.content, json!({ "prompt": "name?", "password": false }));
    // Answers of the other client's own, which the kernel may read at any time, and one that carries another identity
    // on the very connection of the client that was asked, which the kernel reads before the right one.
    for _ in 0..20 {
        answer_to(&mut other, &question, &[], "Eve").await;
    }
    let client_2 = [Bytes::from_static(b"client-2")];
    answer_to(&mut asked, &question, &client_2, "Mallory").await;
    asked.answer("Ada").await;
    let messages = asked.until_idle(&id).await;
    assert_eq!(stream(&messages, "stdout"), "before\ngot Ada\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_asked_as_one() {
    let served = serve().await;
    let mut client = served.client().await;
    let id = client
        .ask(
            "execute_request",
            json!({ "code": "password key?", "allow_stdin": true }),
        )
        .await;
    assert_eq!(client.question().await.content["password"], true);
    client.answer("secret").await;
    client.until_idle(&id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_fails_at_once_where_it_is_not_allowed() {
    let served = serve().await;
    let mut client = served.client().await;
    let (reply, _) = client
        .run_with(json!({ "code": "input name?", "allow_stdin": false }))
        .await;
    assert_eq!(reply.content["ename"], "NoInput");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_cancels_a_question_and_a_late_answer_is_not_taken_for_the_next() {
    let served = serve().await;
    let mut client = served.client().await;
    let id = client
        .ask(
            "execute_request",
            json!({ "code": "input one?", "allow_stdin": true }),
        )
        .await;
    let first = client.question().await;
    let interrupt = client.ask_control("interrupt_request", json!({})).await;
    client.control_reply(&interrupt).await;
    assert_eq!(client.reply(&id).await.content["ename"], "KeyboardInterrupt");
    client.until_idle(&id).await;
    let id = client
        .ask(
            "execute_request",
            json!({ "code": "input two?", "allow_stdin": true }),
        )
        .await;
    assert_eq!(client.question().await.content["prompt"], "two?");
    // Both on one connection: the kernel reads the late one first, while the second question waits.
    answer_to(&mut client, &first, &[], "late").await;
    client.answer("in time").await;
    let text = stream(&client.until_idle(&id).await, "stdout");
    assert_eq!(text, "got in time\n");
}
