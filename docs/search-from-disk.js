// Browsers start no worker from a page that was opened from disk. There, run the search's script in a hidden frame.
if (location.protocol === "file:") {
  window.IFrameWorker = class IFrameWorker extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      this.loaded = new Promise(resolve => (frame.onload = resolve));
      frame.srcdoc = `<script>
        const parentWindow = parent;
        postMessage = (data) => parentWindow.postMessage({ fromSearch: true, data }, "*");
        importScripts = (...urls) => urls.reduce((before, url) => before.then(() => new Promise(done => {
          const script = document.createElement("script");
          script.src = url; script.onload = done; document.body.appendChild(script);
        })), Promise.resolve());
      <\/script><script src="${url}"><\/script>`;
      document.body.appendChild(frame);
      this.frame = frame;
      addEventListener("message", ({ data }) => {
        if (!data?.fromSearch) return;
        const event = new MessageEvent("message", { data: data.data });
        this.dispatchEvent(event);
        this.onmessage?.(event);
      });
    }
    postMessage(data) {
      this.loaded.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }
    terminate() { this.frame.remove(); }
  };
  window.Worker = window.IFrameWorker;
}
