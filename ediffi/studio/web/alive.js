// Whether the studio still runs. One that was started again has a new token: the page is loaded again, and is as it was.
const stopped = element.querySelector(".stopped");
const PAUSE = 2000;

async function ask() {
  if (document.hidden) return;
  try {
    const answer = await fetch("gradio_api/app_id");
    stopped.hidden = true;
    if (answer.status === 403) location.reload();
  } catch {
    stopped.hidden = false;
  }
}
setInterval(ask, PAUSE);
