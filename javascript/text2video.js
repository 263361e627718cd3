/* The Text2Video tab in the browser: which buttons are to be seen, the strip of films, the frame that is shown.

   Everything is found by id whenever it is needed, because gradio may make it late, or anew. The only global name is
   `text2video`, which the tab's own events call. */
(() => {
    "use strict";

    const PREFIX = "text2video_";
    const BUSY = ["queued", "running", "stopping"];
    const TRIES = 5; // for as long as gradio may not be listening yet
    const LOST = 10000; // milliseconds after which no answer comes any more

    const part = (name) => document.getElementById(PREFIX + name);
    const inside = (name, selector) => part(name)?.querySelector(selector) ?? null;
    const press = (name) => (part(name)?.matches("button") ? part(name) : inside(name, "button"))?.click();

    let root = null;

    /* ---- buttons ---- */

    function state() {
        return inside("progress", "[data-state]")?.dataset.state ?? "";
    }

    // The keys of web UIs read whether Interrupt is displayed as a block, so that is what says "busy". While a job is
    // being stopped it keeps that, and is only out of sight.
    function showButtons(now = state()) {
        const busy = BUSY.includes(now), stopping = now === "stopping";
        const shown = {generate: !busy, interrupt: busy, skip: busy && !stopping, interrupting: stopping};
        for (const [name, show] of Object.entries(shown)) {
            const button = part(name), display = show ? "block" : "none";
            if (button && button.style.display !== display) {
                button.style.display = display;
            }
        }
        part("interrupt")?.classList.toggle("t2v-away", stopping);
    }

    /* ---- films ---- */

    function make(tag, attributes, ...children) {
        const made = document.createElement(tag);
        for (const [name, value] of Object.entries(attributes)) {
            made.setAttribute(name, value);
        }
        made.append(...children);
        return made;
    }

    // A film of the strip into the player, as show.py would put it there. All of it is text to the browser.
    function showFilm(button) {
        const {film, kind, url, file, note, infotext} = button.dataset, words = button.title;
        const picture = kind === "video"
            ? make("video", {src: url, "aria-label": words, controls: "", loop: "", autoplay: "", playsinline: ""})
            : make("img", {src: url, alt: words});
        const link = make("a", {href: url, download: file}, `⬇ ${file}`);
        inside("player", ".t2v-slot")?.replaceChildren(
            make("figure", {class: "t2v-player", "data-film": film}, picture, make("figcaption", {}, link, note)));
        inside("infotext", ".t2v-slot")?.replaceChildren(
            ...(infotext ? [make("pre", {class: "t2v-infotext"}, infotext)] : []));
        markFilm();
    }

    function markFilm() {
        const shown = film();
        for (const button of part("films")?.querySelectorAll(".t2v-film") ?? []) {
            const current = String(button.dataset.film === shown && shown !== "");
            if (button.getAttribute("aria-current") !== current) {
                button.setAttribute("aria-current", current);
            }
        }
    }

    /** The film in the player, by the name that the program has for it; "" where there is none. */
    function film() {
        return inside("player", "[data-film]")?.dataset.film ?? "";
    }

    /** How far the player has come, in seconds. */
    function second() {
        return inside("player", "video")?.currentTime ?? 0;
    }

    /** Lets the host's own button send the frame on, if there is one. */
    function paste(at) {
        if (at >= 0) {
            press("paste_img2img");
        }
    }

    /* ---- once for each page ---- */

    // The first time the tab is seen: asks for the films there are and for the job that may be running. The answer
    // shows in the strip; without one, gradio was not ready, and it is asked again.
    function reattach(tries = TRIES) {
        if (tries > 0 && root?.isConnected && !inside("films", "[data-ready]")) {
            press("reattach");
            setTimeout(reattach, 3000, tries - 1);
        }
    }

    // Hints come with the page, and parts one by one after it: each gets its own as soon as it is there.
    function addHints() {
        const hints = root?.querySelector(".t2v-hints")?.dataset.hints;
        for (const [id, hint] of Object.entries(JSON.parse(hints ?? "{}"))) {
            const found = document.getElementById(id);
            if (found && found.title !== hint) {
                found.title = hint;
                if (found.matches("button")) {
                    found.ariaLabel = hint;
                }
            }
        }
    }

    function attach(found) {
        root = found;
        root.addEventListener("click", (event) => {
            const button = event.target.closest(".t2v-film");
            if (button) {
                showFilm(button);
            } else if (event.target.closest(`#${PREFIX}interrupt`)) {
                showButtons("stopping");
            }
        });
        new MutationObserver(refresh).observe(root, {
            childList: true, subtree: true, attributes: true, attributeFilter: ["data-state", "data-look"]});
        new IntersectionObserver((entries, observer) => {
            if (entries.some((entry) => entry.isIntersecting)) {
                observer.disconnect();
                setTimeout(reattach, 300);
            }
        }).observe(root);
        refresh();
    }

    // While there is work, the page asks how far it is. An answer has another number than the one before, and is
    // followed by the next question; one that does not come is asked for again.
    const asked = {};
    function look(name, button) {
        const {state: now, look: number} = inside(name, "[data-look]")?.dataset ?? {};
        if (!BUSY.includes(now) || (asked[name]?.number === number && Date.now() < asked[name].until)) {
            return;
        }
        asked[name] = {number, until: Date.now() + LOST};
        setTimeout(press, 200, button);
    }

    function refresh() {
        addHints();
        look("progress", "look");
        look("care", "look_care");
        showButtons();
        markFilm();
    }

    // Web UIs have these keys themselves; the page of `t2v serve` says that it is alone.
    function keys(event) {
        if (!document.querySelector('meta[name="text2video-alone"]') || !root?.isConnected) {
            return;
        }
        const busy = BUSY.includes(state()), enter = event.key === "Enter";
        const wanted = enter && (event.ctrlKey || event.metaKey) ? (busy ? "interrupt" : "generate")
            : enter && event.altKey && busy ? "skip" : event.key === "Escape" && busy ? "interrupt" : "";
        if (wanted) {
            event.preventDefault();
            press(wanted);
        }
    }

    function find() {
        const found = part("root");
        if (found && found !== root) {
            attach(found);
        }
    }

    window.text2video?.leave(); // the script may be loaded twice
    const watch = new MutationObserver(find);
    const clock = setInterval(() => root?.isConnected && refresh(), LOST / 2);
    watch.observe(document.documentElement, {childList: true, subtree: true});
    document.addEventListener("keydown", keys);
    window.text2video = {
        film, second, paste,
        leave() {
            watch.disconnect();
            clearInterval(clock);
            document.removeEventListener("keydown", keys);
        },
    };
    find();
})();
