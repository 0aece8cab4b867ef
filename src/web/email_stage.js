// Has a mail sent, and shows the form with which the person goes on once they confirmed the address.
const ask = document.getElementById("ask"), go = document.getElementById("go");
const notice = document.getElementById("notice");
const secret = [...crypto.getRandomValues(new Uint8Array(20))].map(byte => byte.toString(16).padStart(2, "0")).join("");
let attempts = 0;

async function sendMail() {
  const body = { client_secret: secret, email: ask.email.value.trim(), send_attempt: ++attempts };
  const answer = await fetch(ask.dataset.operation, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  });
  const response = await answer.json();
  if (!answer.ok) throw new Error(response.error);
  [go.sid.value, go.client_secret.value] = [response.sid, secret];
  go.hidden = false;
}

ask.addEventListener("submit", event => {
  event.preventDefault();
  notice.hidden = true;
  sendMail().catch(error => {
    notice.textContent = error.message;
    notice.hidden = false;
  });
});
