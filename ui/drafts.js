// What was typed and not yet sent survives a reload: it is kept in this tab, under the field's own key, until it is sent.
const name = (field) => {
  const keyed = field.closest('[class*="st-key-"]')
  const key = keyed && [...keyed.classList].find((c) => c.startsWith("st-key-"))
  return key && `draft:${location.pathname}${location.search}:${key}`
}
const isField = (target) => target?.tagName === "TEXTAREA"

function restore() {
  for (const field of document.querySelectorAll("textarea:not([data-draft])")) {
    const found = name(field)
    if (!found) continue
    field.dataset.draft = "seen"
    const draft = sessionStorage.getItem(found)
    if (!draft || draft === field.value) continue
    Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(field, draft) // past React, which then hears of it
    field.dispatchEvent(new Event("input", { bubbles: true }))
  }
}

function sent() {
  for (const field of document.querySelectorAll('[data-testid="stChatInput"] textarea')) sessionStorage.removeItem(name(field))
}

export default function () {
  if (!window.flywheelDrafts) {
    window.flywheelDrafts = true
    document.addEventListener("input", (e) => {
      if (isField(e.target) && name(e.target)) {
        try { sessionStorage.setItem(name(e.target), e.target.value) } catch { /* a tab's storage is full: this one draft is not kept */ }
      }
    })
    document.addEventListener("keydown", (e) => {
      if (e.key === "Enter" && !e.shiftKey && e.target.closest?.('[data-testid="stChatInput"]')) setTimeout(sent)
    })
    document.addEventListener("click", (e) => e.target.closest?.('[data-testid="stChatInputSubmitButton"]') && setTimeout(sent))
    new MutationObserver(restore).observe(document.body, { childList: true, subtree: true })
  }
  restore()
}
