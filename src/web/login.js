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

// Gives what was noted when this window was last sent to the provider, and notes something new; null where nothing is kept.
function renote(state) {
  try {
    const before = sessionStorage.getItem("state");
    sessionStorage.setItem("state", state);
    return before;
  } catch {
    return null;
  }
}

// Others can make a link with a token of theirs: it logs in by itself only where the way to it began here.
function askToLogIn(token) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Finish logging in";
  button.addEventListener("click", () => attempt({ type: "m.login.token", token }));
  notice.textContent = "If you did not just begin to log in, close this page: the account may be somebody else's.";
  notice.hidden = false;
  notice.after(button);
}

const token = query.get("loginToken"), provider = document.querySelector("a");
const state = Array.from(crypto.getRandomValues(new Uint8Array(16)), byte => byte.toString(16).padStart(2, "0")).join("");
const cameBackWith = query.get("state"), noted = renote(state);
query.delete("loginToken");
query.set("state", state);
if (provider) {
  const back = location.origin + location.pathname + "?" + query;
  provider.href += "?redirectUrl=" + encodeURIComponent(back);
}
if (token && noted !== null && cameBackWith === noted) attempt({ type: "m.login.token", token });
else if (token) askToLogIn(token);
