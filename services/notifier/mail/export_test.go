package mail

// NoticeID is the id by which a notice is sent once.
var NoticeID = noticeID
