// The form of the login page: logs in, and hands what comes of it to the program that shows the page.
window.matrixLogin = window.matrixLogin || {};
const form = document.querySelector("form"), notice = document.querySelector(".error");
const query = new URLSearchParams(location.search);

async function logIn(body) {
  for (const name of ["device_id", "initial_device_display_name"]) {
    if (query.has(name)) body[name] = query.get(name);
  }
  if (query.get("refresh_token") === "true") body.refresh_token = true;
  const answer = await fetch("/_matrix/client/v3/login", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  });
  const response = await answer.json();
  if (!answer.ok) throw new Error(response.error);
  document.querySelector("main").textContent = "You are logged in. Go back to your client.";
  if (window.matrixLogin.onLogin) window.matrixLogin.onLogin(response);
}

function attempt(body) {
  notice.hidden = true;
  logIn(body).catch(error => {
    notice.textContent = error.message;
    notice.hidden = false;
  });
}

form.addEventListener("submit", event => {
  event.preventDefault();
  const name = form.user.value.trim();
  const identifier = name.indexOf("@") > 0
    ? { type: "m.id.thirdparty", medium: "email", address: name }
    : { type: "m.id.user", user: name };
  attempt({ type: "m.login.password", identifier, password: form.password.value });
});

const token = query.get("loginToken"), provider = document.querySelector("a");
query.delete("loginToken");
if (provider) {
  const rest = query.toString();
  const back = location.origin + location.pathname + (rest && "?" + rest);
  provider.href += "?redirectUrl=" + encodeURIComponent(back);
}
if (token) attempt({ type: "m.login.token", token });
